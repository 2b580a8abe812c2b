//go:build race

package cli

// The copies share the build cache of the tests.
const raceFlag = "-race"
