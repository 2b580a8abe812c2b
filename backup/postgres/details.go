package postgres

import (
	"fmt"

	"example.com/tykupgrade/backup"
)

// Details are the details of a component of kind [Kind].
type Details struct {
	Server    string     `json:"server"`  // version, "15.8"
	Major     int        `json:"major"`   // of the server
	Dump      string     `json:"pg_dump"` // version of pg_dump
	DumpMajor int        `json:"pg_dump_major"`
	LSN       string     `json:"lsn,omitempty"` // write-ahead log position of the snapshot
	Standby   bool       `json:"standby,omitempty"`
	Databases []Database `json:"databases"`
}

// Database is one database of a set.
type Database struct {
	Name       string   `json:"name"`
	File       string   `json:"file"` // below the component's directory
	Snapshot   string   `json:"snapshot"`
	Owner      string   `json:"owner"`
	Encoding   string   `json:"encoding"`
	Collate    string   `json:"collate"`
	CType      string   `json:"ctype"`
	Provider   string   `json:"locale_provider,omitempty"` // "i" for ICU
	ICULocale  string   `json:"icu_locale,omitempty"`
	Limit      int      `json:"connection_limit"`
	Settings   []string `json:"settings,omitempty"` // name=value, of ALTER DATABASE … SET
	Grants     []Grant  `json:"grants,omitempty"`   // on the database itself
	Comment    string   `json:"comment,omitempty"`
	Size       int64    `json:"size"`            // bytes on the server
	Roles      []string `json:"roles,omitempty"` // roles in objects or privileges
	Spaces     []string `json:"tablespaces,omitempty"`
	Extensions []string `json:"extensions,omitempty"`
	Tables     []Table  `json:"tables"` // with rows of their own, sorted
}

// Grant is one privilege on the database itself.
type Grant struct {
	Role      string `json:"role"` // empty: PUBLIC
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable,omitempty"`
}

// Table is one table with its number of rows at the snapshot.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"` // on the server
}

func details(s *backup.Stored) (*Details, error) {
	var d Details
	if err := s.DecodeDetails(&d); err != nil {
		return nil, err
	}
	if len(d.Databases) == 0 {
		return nil, fmt.Errorf("%w: the manifest names no database", backup.ErrDamaged)
	}
	return &d, nil
}
