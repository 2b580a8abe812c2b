package compiler

import "example.com/tykupgrade/pluginbuild"

// Event describes the progress of a build; see [pluginbuild.Event].
type Event = pluginbuild.Event

// The kinds of an [Event].
const (
	Started  = pluginbuild.Started
	Output   = pluginbuild.Output
	Progress = pluginbuild.Progress
	Done     = pluginbuild.Done
)
