package backup_test

import (
	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/run"
)

// localRunner stands for another host.
var localRunner = backup.Runner(run.Local(run.Options{}))
