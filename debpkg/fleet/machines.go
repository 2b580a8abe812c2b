package fleet

import "fmt"

// Machines returns one host for each machine, and maps the name of every host to that host's name.
// Hosts with the same address and port are on one machine.
func (inv *Inventory) Machines() (hosts []Host, of map[string]string) {
	of = map[string]string{}
	first := map[string]string{}
	for _, h := range inv.Hosts {
		at := fmt.Sprint(h.Address, " ", h.Port)
		if first[at] == "" {
			first[at] = h.Name
			hosts = append(hosts, h)
		}
		of[h.Name] = first[at]
	}
	return hosts, of
}

// Label returns the versions of a run in the order of the components, such as "gateway 5.2.5, pump
// 1.9.0".
func (inv *Inventory) Label() string {
	text := ""
	for _, component := range inv.Order {
		if v := inv.Versions[component]; v != "" {
			if text != "" {
				text += ", "
			}
			text += component + " " + v
		}
	}
	return text
}
