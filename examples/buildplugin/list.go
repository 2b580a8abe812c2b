package main

// runList shows the release table.
func (c *command) runList() (any, error) {
	t, err := c.releases()
	if err != nil || c.json {
		return t, err
	}
	rows := [][]string{{"RELEASE", "COMMIT", "GO", "MODE"}}
	for _, r := range t {
		rows = append(rows, []string{r.Version.String(), r.Commit[:12], r.Compiler.Go, string(r.Compiler.Mode)})
	}
	c.stdout.Printf("%s", c.stdout.Table(rows))
	return nil, nil
}
