package debpkg

// Classify is the failure catalogue's reader.
var Classify = classify
