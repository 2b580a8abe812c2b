package compiler

import "example.com/tykupgrade/pluginbuild"

// Event is something that happened during a build: see [pluginbuild.Event].
type Event = pluginbuild.Event

// Kinds of an [Event].
const (
	Started  = pluginbuild.Started
	Output   = pluginbuild.Output
	Progress = pluginbuild.Progress
	Done     = pluginbuild.Done
)
