// Package rdb reads and writes the snapshot format of Redis and Valkey.
//
// Read reads a whole file in constant memory. It counts keys, sums them up by their meaning, and
// reports the position of each value. It knows every value type and record of Redis 2.6 to 8.8 (RDB
// versions 1 to 14) and Valkey 7.2 to 9 (11 and 80). Of newer files it checks only the header and
// the checksum.
package rdb

// Limits of the format that this package knows.
const (
	MaxRedis  = 14 // newest RDB version of Redis that is walked (8.8)
	MaxValkey = 80 // of Valkey (9.0), whose files begin with VALKEY
)

// Walks reports whether this package can read values of an RDB version.
func Walks(version int) bool { return version <= MaxRedis || version == MaxValkey }

// Opcodes of a file (rdb.h of Redis 7.0; slot info from 7.4, 243 from Redis 8.6
// and Valkey 9.0 with two meanings).
const (
	opSlotImport = 0xF3 // Valkey: state of a slot import; Redis: metadata of modules for a key
	opSlotInfo   = 0xF4
	OpFunction   = 0xF5
	opFunctionRC = 0xF6 // 7.0 release candidates
	opModuleAux  = 0xF7
	opIdle       = 0xF8
	opFreq       = 0xF9
	opAux        = 0xFA
	opResizeDB   = 0xFB
	opExpireMS   = 0xFC
	opExpireS    = 0xFD
	opSelectDB   = 0xFE
	opEOF        = 0xFF
)
