package bundle

import (
	"archive/zip"
	"errors"
	"fmt"
)

// Default limits of [VerifyOptions] and [Options].
const (
	DefaultMaxSize  = 2 << 30 // bytes of all files together, unpacked
	DefaultMaxFiles = 1000
	DefaultMaxRatio = 200 // unpacked to packed size of one file
)

const (
	maxManifest = 1 << 20
	// Smaller files are harmless at any ratio, for example a text of spaces.
	ratioFloor = 1 << 20
)

// limits returns o with the defaults filled in.
func (o VerifyOptions) limits(op string) (VerifyOptions, error) {
	if o.MaxSize < 0 || o.MaxFiles < 0 || o.MaxRatio < 0 {
		return o, &Error{Op: op, Err: errors.New("a limit is negative"), Next: "use 0 for the default"}
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxRatio == 0 {
		o.MaxRatio = DefaultMaxRatio
	}
	return o, nil
}

// count judges the number of files, manifest.json not counted.
func (o VerifyOptions) count(files int) error {
	if files > o.MaxFiles {
		return fmt.Errorf("%w: %d files, at most %d", ErrLimit, files, o.MaxFiles)
	}
	return nil
}

// size judges the bytes of all files, unpacked.
func (o VerifyOptions) size(bytes int64) error {
	if bytes > o.MaxSize {
		return fmt.Errorf("%w: %d bytes unpacked, at most %d", ErrLimit, bytes, o.MaxSize)
	}
	return nil
}

// ratio judges how much a file grows when it is unpacked.
func (o VerifyOptions) ratio(h *zip.FileHeader) error {
	packed, unpacked := h.CompressedSize64, h.UncompressedSize64
	if unpacked > ratioFloor && unpacked/uint64(o.MaxRatio) > packed {
		return fmt.Errorf("%w: %d bytes unpack to %d, more than %d times as many", ErrLimit, packed,
			unpacked, o.MaxRatio)
	}
	return nil
}
