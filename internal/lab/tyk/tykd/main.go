// Command tykd is package program as a program of its own.
package main

import (
	"log"
	"os"

	"example.com/tykupgrade/internal/lab/tyk/program"
)

var version string // set by -ldflags -X

func main() {
	if len(os.Args) > 2 && os.Args[1] == program.Arg {
		program.Main(os.Args[2], version, os.Args[3:])
		return
	}
	path, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	program.Main(path, version, os.Args[1:])
}
