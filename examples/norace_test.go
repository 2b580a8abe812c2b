//go:build !race

package examples_test

const raceFlag = "-race=false"
