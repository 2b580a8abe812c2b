package bundle

import "fmt"

// Listed is one bundle of a list in custom_middleware_bundle.
type Listed struct {
	Name     string
	Manifest *Manifest
}

// CheckList returns the findings about a list of bundles for gateways from 5.15 on, in the order of
// the list. Such a gateway appends the hooks of all bundles. It accepts auth_check in only one
// bundle and only one driver, and it ignores traffic_logs. The rules were read in the public
// repository before the release of 5.15.
func CheckList(list []Listed) []Finding {
	var all []Finding
	add := func(s Severity, name, format, remedy string, a ...any) {
		all = append(all, Finding{Path: name, Severity: s, Problem: fmt.Sprintf(format, a...),
			Remedy: remedy})
	}
	auth, driver, driverOf := "", "", ""
	dirs := map[string]string{}
	for _, b := range list {
		mw := b.Manifest.Middleware
		if mw.AuthCheck.Name != "" {
			if auth != "" {
				add(Refused, b.Name, "it has an auth_check, and %s has one",
					"keep auth_check in one of the bundles", auth)
			} else {
				auth = b.Name
			}
		}
		switch {
		case mw.Driver == "":
		case driver == "":
			driver, driverOf = mw.Driver, b.Name
		case mw.Driver != driver:
			add(Refused, b.Name, "its driver is %s, that of %s is %s", "use one driver in all of them",
				mw.Driver, driverOf, driver)
		}
		if mw.TrafficLogs != nil && len(list) > 1 {
			add(Accepted, b.Name, "its traffic_logs is not used in a list",
				"set analytics_plugin in the API definition")
		}
		dir := listDir(b.Name)
		if other, taken := dirs[dir]; taken {
			add(Refused, b.Name, "it is unpacked into the same directory as %s", "rename one of them", other)
		}
		dirs[dir] = b.Name
	}
	return all
}
