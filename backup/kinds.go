package backup

import (
	"context"
	"fmt"
	"sync"
)

// kinds holds the structure check of each registered kind.
var kinds = struct {
	sync.Mutex
	checks map[string]func(ctx context.Context, s *Stored) error
}{checks: map[string]func(ctx context.Context, s *Stored) error{}}

// RegisterKind makes components of one kind known to this program. check reads
// a component from end to end without its server, for [LevelStructure]; its
// errors are findings and match [ErrDamaged] in the result of [Set.Verify].
//
// Each package with a source calls it in its init function, so that importing
// the package suffices. RegisterKind panics for an empty kind, a nil check and
// a second registration of one kind.
func RegisterKind(kind string, check func(ctx context.Context, s *Stored) error) {
	kinds.Lock()
	defer kinds.Unlock()
	if kind == "" || check == nil {
		panic("backup: RegisterKind needs a kind and a check")
	}
	if kinds.checks[kind] != nil {
		panic("backup: RegisterKind called twice for kind " + kind)
	}
	kinds.checks[kind] = check
}

// packages tells which import makes a kind known.
var packages = map[string]string{
	"files":    "example.com/tykupgrade/backup/hostfiles",
	"redis":    "example.com/tykupgrade/backup/redisdb",
	"mongo":    "example.com/tykupgrade/backup/mongodb",
	"postgres": "example.com/tykupgrade/backup/postgres",
}

// structure returns the check of a kind. A component of kind "" has none.
func structure(kind string) (func(ctx context.Context, s *Stored) error, error) {
	if kind == "" {
		return func(context.Context, *Stored) error { return nil }, nil
	}
	kinds.Lock()
	defer kinds.Unlock()
	if check := kinds.checks[kind]; check != nil {
		return check, nil
	}
	next := "import the package that defines it, which calls RegisterKind"
	if p := packages[kind]; p != "" {
		next = "import " + p
	}
	return nil, &Error{Op: "read kind", Object: fmt.Sprintf("%q", kind), Kind: ErrUnknownKind,
		Next: next}
}
