package bundle

import (
	"archive/zip"
	"context"
	"fmt"
	"os"
)

// Check verifies the bundle at path as [Verify] does, and validates its manifest together with the
// files in it. Findings are not errors: a bundle with a finding of severity [Refused] is
// well-formed, but gateways cannot use it. The end of ctx stops the work.
func Check(ctx context.Context, path string, o VerifyOptions) (*Manifest, []Finding, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	m, err := verify(ctx, f, info.Size(), o)
	var files *zip.Reader
	if err == nil {
		files, err = zip.NewReader(f, info.Size())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, m.Validate(files), nil
}
