//go:build !race

package cli

const raceFlag = "-race=false"
