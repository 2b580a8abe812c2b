// Package tyk stands for Tyk's gateway, dashboard and pump, whose packages and
// images public registries do not serve. The health endpoints are those of
// health/healthtest.
//
// The command tykd below it serves a stub as a process, for test packages.
package tyk

import "example.com/tykupgrade/health/healthtest"

type (
	// Kind is healthtest's.
	Kind = healthtest.Kind
	// Options is healthtest's.
	Options = healthtest.Options
	// Plugin is healthtest's.
	Plugin = healthtest.Plugin
	// Mode is healthtest's.
	Mode = healthtest.Mode
	// Stub is healthtest's Program.
	Stub = healthtest.Program
)

// Values of healthtest.
const (
	Gateway   = healthtest.Gateway
	Dashboard = healthtest.Dashboard
	Pump      = healthtest.Pump

	NoPlugin = healthtest.NoPlugin
	Loaded   = healthtest.Loaded
	Broken   = healthtest.Broken

	Normal   = healthtest.Normal
	HalfOpen = healthtest.HalfOpen
	Reset    = healthtest.Reset
	ResetAll = healthtest.ResetAll
)

// New returns a stub that has just started.
func New(o Options) *Stub { return healthtest.New(o) }

// Echo is healthtest.Echo.
var Echo = healthtest.Echo
