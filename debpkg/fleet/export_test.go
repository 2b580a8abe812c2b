package fleet

import "time"

// Hurry sets how often load balancers are asked.
func (inv *Inventory) Hurry(every time.Duration) { inv.every = every }
