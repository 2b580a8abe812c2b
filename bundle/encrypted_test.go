package bundle_test

import (
	"archive/zip"
	"fmt"
	"testing"

	"example.com/tykupgrade/bundle"
)

// Each of the three flags of an encrypted entry is refused by itself: traditional and
// strong encryption, and a masked directory (APPNOTE 4.4.4).
func TestVerifyRefusesEncrypted(t *testing.T) {
	t.Parallel()
	for _, flag := range []uint16{1 << 0, 1 << 6, 1 << 13} {
		t.Run(fmt.Sprintf("%#x", flag), func(t *testing.T) {
			t.Parallel()
			_, err := verify(craft(t, entry{name: "a", data: "abc",
				header: func(h *zip.FileHeader) { h.Flags = flag }},
				entry{name: manifest, data: abcOnly}), bundle.VerifyOptions{})
			refusedAs(t, err, bundle.ErrStructure, "encrypted")
		})
	}
}
