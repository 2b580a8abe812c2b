package fleet

import "fmt"

// Machines are the hosts with each machine once, and for every host of the inventory the name
// of the one that stands for its machine. Components on one machine have one address and port.
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

// Label names the versions of a run in the order of the components: "gateway 5.2.5, pump 1.9.0".
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
