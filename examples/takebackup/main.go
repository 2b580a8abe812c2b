// Command takebackup takes, verifies, restores, lists and prunes backup sets.
// It shows package backup at work: flags, values, calls, print.
package main

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/redis/go-redis/v9/logging"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/examples/internal/cli"
)

func main() {
	logging.Disable() // the Redis client's own log
	program().Main()
}

// flags by the verbs Take, List, Verify, Restore, restore-Dump, Undo, Accept, Export, Import
// and Prune.
const flags cli.Table = `
TLVRDUAEIP json          print one JSON object
TLVRDUAEIP v             log each step to standard error
TLVRUAEIP dir=           the <directory> of the sets
T label=                 free <text> for the manifest, such as the reason
T sign=                  sign the set with the OpenSSH key in this <file>
VRI require-signature=   refuse a set that none of the public keys in this <file> signed
T export=                afterwards export the set to this <file>
TE recipient…            encrypt the export to this age <recipient> (age1…); repeatable
TE require-encrypted     refuse an export without a recipient
I require-encrypted      refuse an export that is not encrypted
I identity=              the <file> with the age identity to decrypt with
I allow-plain            with an identity: take an export that is not encrypted, too
V level=structure        the <level>: files, structure or live
RDP dry-run              only say what would be done
RD replace               also replace data that is there already
R keep                   keep what is replaced until undo or accept
RUAD rescue=             the <directory> for journals and for sets of what is replaced
                         (default: rescued, next to the set)
P keep#                  keep this <number> of sets
P max-age~               remove sets older than this, such as 720h

TVRUA config             configuration files: Tyk's, and what its packages overwrite
TVRUA config-name=config the <name> of the component in the set, such as config/gateway-1
TVRUA root=/             the <directory> that stands for / on this host
TVRUA host=              the configuration files of this <host> over SSH, as [user@]host
T path…                  instead of Tyk's files this absolute <path>, with wildcards; repeatable
RUA path…                the set may write below this absolute <path> instead of Tyk's, with
                         wildcards; repeatable
RUA only…                only this absolute <path>, with wildcards; repeatable

TVRUAD redis             Redis, at the URI of TAKEBACKUP_REDIS_URI
TVRUA redis-name=redis   the <name> of the component in the set
TVRUAD redis-uri-file=   read the URI from this <file>: redis://user:password@host:6379, rediss://
                         for TLS, redis+sentinel://…/mymaster, redis+cluster://…
TVRUAD redis-ca=         PEM <file> of the authority that signed the server's certificate
TVRUAD redis-cert=       PEM <file> of the client's certificate
TVRUAD redis-key=        PEM <file> of the client's key
TVRUAD redis-command…    a <name> that the server has for a renamed command, as PSYNC=psync-4711;
                         repeatable
VRUAD redis-sample#      compare this <number> of keys, chosen at random, instead of all
T redis-method=psync     the <method>: psync, bgsave, save (blocks all clients) or dump
T redis-stale            also from a replica that has lost its master
T redis-rdb=             the server's RDB <file>, for bgsave and save if CONFIG GET is forbidden
RUAD redis-mode=live     the <mode>: live (key by key into what runs) or offline (stop, place,
                         start)
RUAD redis-dir=          the server's data <directory>, for offline if the server runs as root or
                         in a container
RUAD redis-unit=redis-server the systemd <unit> to stop and start, for offline

TVRUAPD mongo            MongoDB, at the URI of TAKEBACKUP_MONGODB_URI
TVRUA mongo-name=mongo   the <name> of the component in the set
TVRUAPD mongo-uri-file=  read the URI from this <file>:
                         mongodb://user@host:27017/?tls=true&authSource=admin, or mongodb+srv://
TVRUAPD mongo-password-file= read the user's password from this <file> instead of the URI or
                         TAKEBACKUP_MONGODB_PASSWORD
TVRUAD mongo-parallel#   collections at a time (default 4)
TP mongo-db…             a <database> (default tyk_analytics); repeatable
TRUAD mongo-include…     only collections that match this <pattern> of database.collection;
                         repeatable
TRUAD mongo-exclude…     leave out what matches this <pattern>; repeatable
T mongo-read=primary     the <members> to read: primary, primaryPreferred, secondary,
                         secondaryPreferred or nearest
T mongo-snapshot=if-possible <whether> to read all collections at one moment: if-possible,
                         required or never
T mongo-plain            do not compress
RUAD mongo-mode=         the <mode> for a collection that exists: new (refuse), replace (build next
                         to it, then swap) or drop (default new, with -replace replace)
RUAD mongo-no-indexes    restore and compare without indexes, for a server that refuses one
RUAD mongo-no-options    create collections without options such as capped, collation and validator
RUA mongo-drop-extra     with replace or drop: also drop the collections that the set does not have
                         and would have had, such as those of a newer version
D mongo-no-prelude       accept a dump without prelude.json (older versions of mongodump write
                         none) as complete

TVRUA postgres           PostgreSQL, at the URI of TAKEBACKUP_POSTGRES_URI
TVRUA postgres-name=postgres the <name> of the component in the set
TVRUA postgres-uri-file= read the URI from this <file>:
                         postgresql://user@host:5432/tyk_analytics?sslmode=verify-full
TVRUA postgres-password-file= read the user's password from this <file> instead of the URI or
                         TAKEBACKUP_POSTGRES_PASSWORD
TVRUA postgres-service=  an <entry> of pg_service.conf instead of a URI
TVRUA postgres-bin=      the <directory> of psql, pg_dump and pg_restore (default: the newest of
                         Debian's, then PATH)
TVRUA postgres-db…       a <database> (default that of the URI, then tyk_analytics); repeatable
RUA postgres-end-clients end the sessions of other clients right before the swap
VRUA postgres-no-owner   without owners and privileges, for a server that lacks the roles
`

const notes = `SET is the directory of a set, or with -dir its id or the word latest. -config,
-redis, -mongo and -postgres choose what to take, compare or restore. Connection URIs
come from the environment or from a file, so that no password is on a command line:
TAKEBACKUP_REDIS_URI, TAKEBACKUP_MONGODB_URI and TAKEBACKUP_POSTGRES_URI.

restore verifies the set, asks everything before it changes anything, and compares the
result with the set. With -keep, and after it was killed, undo puts back what it
replaced, and accept keeps the result.
`

func program() cli.Command {
	return cli.Command{Name: "takebackup", Notes: notes,
		About: "Takes, verifies, restores, lists and prunes backup sets.",
		Verbs: []cli.Verb{
			verb("T", "take", "", "take a new set below -dir", take),
			verb("L", "list", "", "list the sets below -dir, newest first", list),
			verb("V", "verify", "SET", "check a set; with -level live compare it with what runs", verify),
			verb("R", "restore", "SET", "verify a set, restore from it, and compare the result", restore),
			verb("D", "restore-dump", "PATH", "restore a dump.rdb of Redis, or the directory that "+
				"mongodump --out wrote", restoreDump),
			verb("U", "undo", "SET", "put back what a restore replaced", undo),
			verb("A", "accept", "SET", "keep a restore, and forget how to undo it", accept),
			verb("E", "export", "SET FILE", "write one .tar.zst file, encrypted with -recipient", export),
			verb("I", "import", "FILE", "make a set of such a file", importSet),
			verb("P", "prune", "", "remove old sets, never the newest that verifies", prune),
		}}
}

func verb(letter, name, args, about string, do func(context.Context, *call) (any, error)) cli.Verb {
	v := cli.Verb{Name: name, Args: args, About: about, Flags: flags.Flags(letter),
		Run: func(ctx context.Context, c *cli.Call) error {
			x := &call{Call: c}
			defer x.close()
			result, err := do(ctx, x)
			return c.Answer(ctx, result, x.advise(err))
		}}
	if strings.Contains("TLI", letter) {
		v.Required = []string{"dir"}
	}
	v.Needs = map[string]string{"root": "config", "host": "config", "path": "config", "only": "config",
		"allow-plain": "identity"}
	if letter != "D" { // it finds out by itself what the path holds
		maps.Copy(v.Needs, cli.PartNeeds(v.Flags))
	}
	if letter == "T" {
		v.Needs["recipient"] = "export"
	}
	return v
}

// advise says the next step in flags and verbs, and gives an error its exit code.
func (c *call) advise(err error) error {
	if errors.Is(err, backup.ErrLocked) {
		err = cli.Exit(cli.Busy, err)
	}
	switch {
	case errors.Is(err, backup.ErrDiffers) && c.Verb == "verify":
		return cli.Advice(err, "restore -dry-run shows what a restore would change")
	case errors.Is(err, backup.ErrNotEmpty):
		return cli.Advice(err, "give -replace if what is there may go")
	case errors.Is(err, redisdb.ErrUnfinished):
		return cli.Advice(err, "finish it with restore, go back with undo, or keep it with accept")
	case errors.Is(err, redisdb.ErrOfflineOnly):
		return cli.Advice(err, "-redis-mode offline places the file as it is")
	case errors.Is(err, backup.ErrNotAllowed) && c.On("redis"):
		return cli.Advice(err, "give the user the permission that the error names; -redis-command "+
			"gives the name of a renamed command, -redis-method reads in another way")
	}
	return err
}
