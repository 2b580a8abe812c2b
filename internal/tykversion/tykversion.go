// Package tykversion reads versions of Tyk's components.
package tykversion

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Parse reads a version as Tyk and Debian write it: 5.2.5, v5.2.5, 5.3.0-rc1,
// 5.3.0~rc1. Space around it does not count.
func Parse(s string) (*semver.Version, error) {
	s = strings.TrimSpace(s)
	if len(s) > 64 {
		return nil, fmt.Errorf("version %.20q…: longer than 64 characters", s)
	}
	v, err := semver.StrictNewVersion(strings.Replace(strings.TrimPrefix(s, "v"), "~", "-", 1))
	if err != nil {
		return nil, fmt.Errorf("version %q: %w; write it like 5.2.5", s, err)
	}
	return v, nil
}
