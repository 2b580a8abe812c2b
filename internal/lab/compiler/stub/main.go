// Command stub is package script as a program of its own.
package main

import (
	"os"

	"example.com/tykupgrade/internal/lab/compiler/script"
)

func main() { script.Main(os.Args[1:]) }
