package compiler

// NewOn makes a Builder for a fake of the Docker client.
func NewOn(api dockerAPI, o Options) *Builder { return newBuilder(docker{api}, o) }
