//go:build race

package examples_test

// raceFlag is how the commands are built: as this test is.
const raceFlag = "-race"
