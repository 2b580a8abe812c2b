// Package dump reads and writes the files of mongodump --out: consecutive BSON documents, metadata
// files in canonical Extended JSON, and their directories.
//
// The layout is that of mongo-tools 100.18. Archives, oplogs, and users and roles are
// not supported.
package dump
