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

// RegisterKind makes a kind of component known to this program. check reads a whole component
// without its server, for [LevelStructure]. In the result of [Set.Verify], its errors match
// [ErrDamaged].
//
// Each package with a source calls it in its init function, so importing the package is enough.
// RegisterKind panics for an empty kind, a nil check, or a kind that is registered already.
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

// packages maps a kind to the package that registers it.
var packages = map[string]string{
	"files":    "example.com/tykupgrade/backup/hostfiles",
	"redis":    "example.com/tykupgrade/backup/redisdb",
	"mongo":    "example.com/tykupgrade/backup/mongodb",
	"postgres": "example.com/tykupgrade/backup/postgres",
}

// structure returns the check of a kind. Kind "" has none.
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
