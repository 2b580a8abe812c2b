// Package dump reads and writes the files of mongodump --out: BSON documents back to
// back, metadata files in canonical Extended JSON, and their tree of directories.
//
// The layout is that of mongo-tools 100.18. Archives, oplogs, and users and roles are
// not supported.
package dump
