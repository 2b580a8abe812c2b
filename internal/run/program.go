package run

import (
	"io/fs"
	"os"
	"syscall"
)

// WriteProgram writes a file that this process runs next. Nothing is forked while the file is open:
// a child would hold it open until its own exec, and the kernel runs no file that is open for
// writing ("text file busy").
func WriteProgram(path string, data []byte, mode fs.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, data, mode)
}
