// Command tykd is package program as a program of its own.
package main

import (
	"log"
	"os"

	"example.com/tykupgrade/internal/lab/tyk/program"
)

var version string // set by -ldflags -X

func main() {
	path, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	program.Main(path, version, os.Args[1:])
}
