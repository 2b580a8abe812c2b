package debpkg

// Classify is the failure catalogue's reader.
var Classify = classify

// Update is the flag that writes golden files.
var Update = update
