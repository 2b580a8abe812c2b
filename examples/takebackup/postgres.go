package main

import (
	"flag"
	"os"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
)

// postgresPart is PostgreSQL.
type postgresPart struct {
	fs                    *flag.FlagSet
	chosen                bool
	name                  string
	uriFile, passwordFile string
	service, bin          string
	databases             listFlag
	endClients, noOwner   bool
}

const (
	postgresURIEnv      = "TAKEBACKUP_POSTGRES_URI"
	postgresPasswordEnv = "TAKEBACKUP_POSTGRES_PASSWORD"
)

func (p *postgresPart) flags(fs *flag.FlagSet, verb string) {
	p.fs = fs
	fs.BoolVar(&p.chosen, "postgres", false, "PostgreSQL, at the URI of "+postgresURIEnv)
	fs.StringVar(&p.name, "postgres-name", "postgres", "the `name` of the component in the set")
	fs.StringVar(&p.uriFile, "postgres-uri-file", "", "read the URI from this `file`: postgresql://user@host:5432/tyk_analytics?sslmode=verify-full")
	fs.StringVar(&p.passwordFile, "postgres-password-file", "", "read the user's password from this `file` instead of the URI or "+postgresPasswordEnv)
	fs.StringVar(&p.service, "postgres-service", "", "an `entry` of pg_service.conf instead of a URI")
	fs.StringVar(&p.bin, "postgres-bin", "", "the `directory` of psql, pg_dump and pg_restore (default: the newest of Debian's, then PATH)")
	fs.Var(&p.databases, "postgres-db", "a database (default that of the URI, then "+postgres.DefaultDatabase+"); may be repeated")
	if verb == "restore" {
		fs.BoolVar(&p.endClients, "postgres-end-clients", false, "end the sessions of other clients right before the swap")
	}
	if verb == "restore" || verb == "verify" {
		fs.BoolVar(&p.noOwner, "postgres-no-owner", false, "without owners and privileges, for a server that lacks the roles")
	}
}

func (p *postgresPart) server(c *command) (postgres.Server, error) {
	s := postgres.Server{URI: c.env(postgresURIEnv), Password: c.env(postgresPasswordEnv), Service: p.service, Bin: p.bin}
	for _, f := range []struct {
		name string
		to   *string
	}{{p.uriFile, &s.URI}, {p.passwordFile, &s.Password}} {
		if f.name == "" {
			continue
		}
		data, err := os.ReadFile(f.name)
		if err != nil {
			return s, err
		}
		*f.to = strings.TrimSpace(string(data))
	}
	if s.URI == "" && s.Service == "" {
		return s, usagef("-postgres needs a URI in %s or -postgres-uri-file, or -postgres-service", postgresURIEnv)
	}
	return s, nil
}

// absent refuses flags that would do nothing.
func (p *postgresPart) absent() (err error) {
	p.fs.Visit(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, "postgres-") {
			err = usagef("-%s does nothing without -postgres", f.Name)
		}
	})
	return err
}

func (p *postgresPart) source(c *command) (backup.Source, error) {
	if !p.chosen {
		return nil, p.absent()
	}
	server, err := p.server(c)
	if err != nil {
		return nil, err
	}
	return &postgres.Source{Server: server, Component: p.name, Databases: p.databases, Log: c.log()}, nil
}

func (p *postgresPart) restorer(c *command) (backup.Restorer, error) {
	if !p.chosen {
		return nil, p.absent()
	}
	server, err := p.server(c)
	if err != nil {
		return nil, err
	}
	return &postgres.Restore{Server: server, Component: p.name, Databases: p.databases, Replace: c.replace,
		EndClients: p.endClients, NoOwner: p.noOwner, Log: c.log()}, nil
}

func (p *postgresPart) close() {}
