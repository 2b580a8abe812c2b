package apidef_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
)

// appPath is a gateway's app_path with one API.
func appPath() apidef.Directory {
	dir, err := os.MkdirTemp("", "apps")
	check(err)
	check(os.WriteFile(filepath.Join(dir, "orders.json"), []byte(`{"api_id":"orders","custom_middleware_bundle":"orders.zip",
		"analytics_plugin":{"enable":true,"plugin_path":"/opt/plugins/log.so","func_name":"Log"}}`), 0o644))
	return apidef.Directory{Path: dir}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// What has to be built again before an upgrade.
func ExampleList() {
	store := appPath()
	defer os.RemoveAll(store.Path)
	inv, err := apidef.List(context.Background(), store, semver.MustParse("5.2.5"))
	check(err)
	for name, apis := range inv.Bundles() {
		fmt.Println("bundle", name, "of", apis)
	}
	for file, places := range inv.OnDisk() {
		fmt.Println("file", file, "of", places)
	}
	// Output:
	// bundle orders.zip of [orders]
	// file /opt/plugins/log.so of [orders analytics_plugin]
}

// A new name is refused as long as no plan shows that running gateways keep the
// plugin.
func ExampleNewPlan() {
	store := appPath()
	defer os.RemoveAll(store.Path)
	change := apidef.Change{From: "orders.zip", To: "orders-2.zip", Gateway: semver.MustParse("5.2.5")}
	_, err := apidef.NewPlan(context.Background(), store, change)
	fmt.Println(errors.Is(err, apidef.ErrOutage))

	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("5.2.5"), To: semver.MustParse("5.14.0"),
		Plugins: []bundle.Plugin{{Current: "old/orders.so", Target: "new/orders.so"}},
		PluginPath: func(file string) (string, error) {
			return "corp.example/orders/" +
				filepath.Dir(file), nil
		},
		Switch: bundle.Switch{Mode: bundle.UniquePath, Name: "orders.zip", New: "orders-2.zip",
			Running: []bundle.Open{{Bundle: "orders.zip", File: "orders.so",
				PluginPath: "corp.example/orders"}}},
	})
	check(err)
	change.Switch = plan.Switch
	p, err := apidef.NewPlan(context.Background(), store, change)
	fmt.Println(p, err)
	// Output:
	// true
	// orders.zip becomes orders-2.zip in 1 APIs: orders <nil>
}

func ExampleApply() {
	ctx, store := context.Background(), appPath()
	defer os.RemoveAll(store.Path)
	// blue-green: nobody runs this
	plan, err := apidef.NewPlan(ctx, store, apidef.Change{From: "orders.zip", To: "orders-2.zip",
		Force: true})
	check(err)
	dir, err := os.MkdirTemp("", "journal")
	check(err)
	defer os.RemoveAll(dir)
	journal := filepath.Join(dir, "journal")
	check(apidef.Apply(ctx, store, plan, journal))
	inv, err := apidef.List(ctx, store, nil)
	check(err)
	fmt.Println(inv.Uses[0].Bundles)
	check(apidef.Revert(ctx, store, journal))
	inv, err = apidef.List(ctx, store, nil)
	check(err)
	fmt.Println(inv.Uses[0].Bundles)
	// Output:
	// [orders-2.zip]
	// [orders.zip]
}
