package pluginbuild

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// CheckBundle finds conflicts between plugins that one gateway loads, such as those of a bundle.
// plugins maps a name to the plugin's source. Check each module with [CheckModule].
func CheckBundle(plugins map[string]fs.FS, r Release) ([]Finding, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("check bundle: %w", err)
	}
	byModule := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		if plugins[name] == nil {
			return nil, fmt.Errorf("check bundle: plugin %s: no file system given", name)
		}
		mod, err := openGoMod(plugins[name])
		if err != nil {
			return nil, fmt.Errorf("check bundle: plugin %s: %w", name, err)
		}
		if mod.Module != nil {
			byModule[mod.Module.Mod.Path] = append(byModule[mod.Module.Mod.Path], name)
		}
	}
	var findings []Finding
	for _, module := range slices.Sorted(maps.Keys(byModule)) {
		names := byModule[module]
		if len(names) < 2 {
			continue
		}
		f := Finding{
			Severity: SeverityError, Code: "same-module", Where: strings.Join(names, ", "),
			Message: fmt.Sprintf("these plugins have the same module path %s: the gateway loads the first "+
				"and refuses the others with \"plugin already loaded\"", module),
			Remedy: "go mod edit -module=… in all but one",
		}
		switch {
		case r.Compiler.RenamesModule:
			f.Remedy += ", or compile each with another plugin id"
		case r.Compiler.Mode != Workspace:
			// GOPATH names a plugin after its build directory, from name and id.
			f.Severity = SeverityInfo
			f.Message = fmt.Sprintf("these plugins have the same module path %s, which is harmless "+
				"before 5.1.0 if their file names differ", module)
		}
		findings = append(findings, f)
	}
	return findings, nil
}
