// Command buildplugin brings a Go plugin's module to a gateway release and compiles it there. It
// shows package pluginbuild and those below it at work.
package main

import (
	"context"
	"flag"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/pluginbuild/compiler"
	"example.com/tykupgrade/pluginbuild/preflight"
)

const notes = `The release table has the general releases. Others come from -releases FILE, in the
form of list -json, or from -repo URL, which has the tag's commit. What the
compiler can do then follows from the version, and Go version and replaces from the
go.mod that -release-mod names.
`

// flags by the verbs Plan, Build, pRepare, Compile, checK, List, cAches and Sweep. Those of
// compiler.Flags are added.
var flags = cli.Table(`
PBRCKLAS json      print JSON
PBRCL release=     gateway <release>, such as 5.2.5
PBRCL releases=    JSON <file> with releases that the table lacks
PBRCL repo=        git <repository> to ask for the commit of a release that the table lacks
PBRCL release-mod= the release's own go.mod <file>, to find dependencies newer than the gateway's;
                   with -repo also for its Go version and replaces
PBRC dir=.         <directory> of the plugin's module
PBRC current=      <release> that runs now, to explain the path
PBRC with…         <directory> of another plugin for the same bundle; repeatable
PBRC no-get        from 5.1 on: leave the gateway's module to the compiler, so that go.mod does not
                   name it
BR force           prepare in spite of findings that stop the plugin
BR go=go           the go <program>
BC remove-image    remove the image afterwards if this call brought it
BC load-test=      afterwards let the image's gateway (from 5.2.3) load the plugin and look up this
                   <symbol>
K gateway=         the gateway's <binary>, /proc/PID/exe of a running one, its .deb, or a tar
                   (docker cp, dpkg-deb --fsys-tarfile; /dev/stdin for a pipe)
K gateway-file=    the binary's <path> inside a .deb (default ` + preflight.GatewayFile + `) or a
                   tar (default: its first file)
K distro=          <distribution> of the gateway hosts, to check glibc: ` +
	strings.Join(preflight.Distros(), ", ") + `
K goamd64=         highest CPU <level> of the gateway hosts, v1 to v4
K manifest=        manifest.json <file> whose functions the plugins must have
K release=         gateway <release>: of a bundle only the files that it takes are checked
K goarch=          <architecture> of the gateway hosts (default: that of -gateway)
A remove           remove them
S older~           than this <age>
`)

// command holds the flags that package compiler has of its own.
type command struct{ compiler.Flags }

func main() { new(command).tool().Main() }

func (c *command) tool() cli.Command {
	verb := func(letter, name, args, required, about string, run func(context.Context,
		*cli.Call) error, groups ...func(*flag.FlagSet)) cli.Verb {
		return cli.Verb{Name: name, Args: args, About: about, Required: strings.Fields(required),
			Run: run, Flags: cli.Groups(append(groups, flags.Flags(letter))...)}
	}
	const about = "Brings a Go plugin to a gateway release and compiles it."
	return cli.Command{Name: "buildplugin", About: about, Notes: notes, Verbs: []cli.Verb{
		verb("P", "plan", "", "release", "show path, commands, image and findings; exit code 1 if a "+
			"finding stops the plugin", c.plan, c.Plugin),
		verb("B", "build", "", "release", "prepare the module, then compile it", c.build, c.Plugin,
			c.Engine, c.Compile),
		verb("R", "prepare", "", "release", "prepare the module: the previous state is restored if a "+
			"step fails", c.build, c.Plugin),
		verb("C", "compile", "", "release", "compile the module as it is", c.build, c.Plugin, c.Engine,
			c.Compile),
		verb("K", "check", "PLUGIN…", "gateway", "predict whether plugins, or those of a bundle, load "+
			"in a gateway", check),
		verb("L", "list", "", "", "show the release table, or one entry of it, ready to commit with "+
			"-json", list),
		verb("A", "caches", "", "", "list Go's caches on the Docker engine, or remove them", c.engine,
			c.Engine),
		verb("S", "sweep", "", "older", "remove containers that crashed runs left on the Docker engine",
			c.engine, c.Engine),
	}}
}
