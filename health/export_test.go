package health

import "github.com/Masterminds/semver/v3"

func EraOf(v *semver.Version) (hello503, ready bool) {
	e := eraOf(v)
	return e.hello503, e.ready
}
