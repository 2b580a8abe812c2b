// Package pluginbuild brings a Go plugin to another release of the Tyk gateway:
// it knows what each release needs of a plugin module, prepares the module,
// checks it, and compiles it in the release's official image.
//
// Everything depends on the target release alone; the release that is running
// now only matters for what goes into a bundle.
package pluginbuild
