module example.com/tykupgrade

go 1.26.0

require (
	github.com/Masterminds/semver/v3 v3.5.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
)
