// Command takebackup shows packages backup and backup/backends at work: flags, values, calls, print.
package main

import (
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"strings"

	"github.com/redis/go-redis/v9/logging"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backends"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

func main() {
	logging.Disable() // the Redis client's own log
	program().Main()
}

// flags by the verbs Take, List, Verify, Restore, restore-Dump, Undo, Accept, Export, Import
// and Prune. Those of backends.Flags are added.
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
U drop-edits             also undo files that were edited since the restore
R keep                   keep what is replaced until undo or accept
RUAD rescue=             the <directory> for journals and for sets of what is replaced
                         (default: rescued, next to the set)
P keep#                  keep this <number> of sets
P max-age~               remove sets older than this, such as 720h
TVRUA host=              the configuration files of this <host> over SSH, as [user@]host
`

const notes = `SET is the directory of a set, or with -dir its id or the word latest. -config,
-redis, -mongo and -postgres choose what to take, compare or restore. Connection URIs and
passwords come from files or from the environment, so that none is on a command line:
TAKEBACKUP_REDIS_URI, TAKEBACKUP_MONGODB_URI, TAKEBACKUP_MONGODB_PASSWORD,
TAKEBACKUP_POSTGRES_URI and TAKEBACKUP_POSTGRES_PASSWORD.

restore verifies the set, asks everything before it changes anything, and compares the
result with the set. With -keep, and after it was killed, undo puts back what it
replaced, and accept keeps the result. undo stops if a file was edited since the restore.
`

// needs are the flags that require another flag, if the verb has that one.
var needs = map[string]string{"root": "config", "host": "config", "path": "config", "only": "config",
	"drop-edits": "config", "recipient": "export", "require-encrypted": "recipient",
	"allow-plain": "identity"}

// call is one invocation.
type call struct {
	*cli.Call
	parts *backends.Flags
	conf  backends.Config
	open  *backends.Backends // nil: not opened
}

func program() cli.Command {
	parts := new(backends.Flags)
	verb := func(letter, name, args, about string, do func(context.Context, *call) (any, error),
		groups ...func(*flag.FlagSet)) cli.Verb {
		v := cli.Verb{Name: name, Args: args, About: about, Needs: maps.Clone(needs),
			Excludes: map[string]string{"root": "host", "require-encrypted": "allow-plain"},
			Empty:    []string{"label"},
			Flags:    cli.Groups(append(groups, flags.Flags(letter))...)}
		v.Run = func(ctx context.Context, c *cli.Call) error {
			x := &call{Call: c, parts: parts}
			result, err := do(ctx, x)
			if x.open != nil {
				_ = x.open.Close()
			}
			return c.Answer(ctx, result, x.advise(err))
		}
		if strings.Contains("TLI", letter) {
			v.Required = []string{"dir"}
		}
		if letter != "D" { // it finds out by itself what the path holds
			maps.Copy(v.Needs, cli.PartNeeds(v.Flags))
		}
		if letter == "I" {
			v.Needs["require-encrypted"] = "identity"
		}
		return v
	}
	return cli.Command{Name: "takebackup", Notes: notes,
		About: "Takes, verifies, restores, lists and prunes backup sets.",
		Verbs: []cli.Verb{
			verb("T", "take", "", "take a new set below -dir", take, parts.Take),
			verb("L", "list", "", "list the sets below -dir, newest first", list),
			verb("V", "verify", "SET", "check a set; with -level live compare it with what runs", verify,
				parts.Compare),
			verb("R", "restore", "SET", "verify a set, restore from it, and compare the result", restore,
				parts.Restore),
			verb("D", "restore-dump", "PATH", "restore a dump.rdb of Redis, or the directory that "+
				"mongodump --out wrote", restoreDump, parts.RestoreDump),
			verb("U", "undo", "SET", "put back what a restore replaced", undo, parts.Undo),
			verb("A", "accept", "SET", "keep a restore, and forget how to undo it", accept, parts.Undo),
			verb("E", "export", "SET FILE", "write one .tar.zst file, encrypted with -recipient", export),
			verb("I", "import", "FILE", "make a set of such a file", importSet),
			verb("P", "prune", "", "remove old sets, never the newest that verifies", prune, parts.Leftovers),
		}}
}

// backends opens what the flags chose. It notes wrong flags, for [cli.Call.Noted].
func (c *call) backends(choose bool) *backends.Backends {
	if choose && c.parts.None() {
		c.Note(cli.Wrong("nothing chosen: give -config, -redis, -mongo or -postgres"))
	}
	var err error
	c.conf, err = c.parts.Config("TAKEBACKUP", c.Env)
	if host := c.Text("host"); host != "" && c.parts.Files {
		c.conf.Files[0].Runner = debpkg.SSH(host, debpkg.SSHOptions{})
	}
	for i := range c.conf.Files {
		c.conf.Files[i].DropEdits = c.On("drop-edits")
	}
	if root := c.Text("root"); root != "" && err == nil {
		_, err = os.Stat(root)
	}
	if c.conf.Log = c.Log(); err == nil {
		c.open, err = backends.Open(c.conf)
	}
	if err != nil {
		c.Note(cli.Exit(cli.Usage, err))
	}
	return c.open
}

// advise says the next step in flags and verbs, and gives an error its exit code.
func (c *call) advise(err error) error {
	switch {
	case errors.Is(err, backup.ErrLocked):
		return cli.Exit(cli.Busy, err)
	case errors.Is(err, backup.ErrDiffers) && c.Verb == "verify":
		return cli.Advice(err, "restore -dry-run shows what a restore would change")
	case errors.Is(err, backup.ErrDamaged) && c.Verb == "restore-dump" && c.parts.Mongo:
		return cli.Advice(err, "dump again; -mongo-no-prelude takes a dump without prelude.json")
	case errors.Is(err, hostfiles.ErrEdited):
		return cli.Advice(err, "keep a copy of the edits, then give -drop-edits")
	case errors.Is(err, backup.ErrNotEmpty):
		return cli.Advice(err, "give -replace if what is there may go")
	case errors.Is(err, redisdb.ErrUnfinished):
		return cli.Advice(err, "finish it with restore, go back with undo, or keep it with accept")
	case errors.Is(err, redisdb.ErrOfflineOnly):
		return cli.Advice(err, "-redis-mode offline places the file as it is")
	case errors.Is(err, backup.ErrNotAllowed) && c.parts.Redis:
		return cli.Advice(err, "give the user the permission that the error names; -redis-command "+
			"gives the name of a renamed command, -redis-method reads in another way")
	}
	return err
}
