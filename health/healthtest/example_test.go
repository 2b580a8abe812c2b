package healthtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/health/healthtest"
)

// waitForGateway is an example of code to test.
func waitForGateway(ctx context.Context, policy health.Policy, version string) error {
	want, err := semver.StrictNewVersion(version)
	if err != nil {
		return err
	}
	_, err = health.Wait(ctx, policy, health.Gateway("gw1", want))
	return err
}

// TestWaitForGateway tests a wait of 30 s against a gateway that restarts as another
// release, in milliseconds: time in the bubble is virtual.
func TestWaitForGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gateway := healthtest.New(healthtest.Options{Kind: healthtest.Gateway, Version: "5.2.5"})
		go func() {
			time.Sleep(15 * time.Second)
			gateway.Restart("5.14.0")
		}()
		policy := health.Policy{Client: gateway.Client(), Deadline: time.Minute}
		if err := waitForGateway(t.Context(), policy, "5.14.0"); err != nil {
			t.Fatal(err)
		}
		policy.Deadline = 30 * time.Second
		gateway.SetRedis(errors.New("connection refused"))
		if err := waitForGateway(t.Context(), policy, "5.14.0"); !errors.Is(err, health.ErrUnhealthy) {
			t.Fatalf("Redis is down, and the wait ended with %v", err)
		}
	})
}

// A wait of 30 s is tested in milliseconds, in virtual time.
func Example() {
	// go test runs TestWaitForGateway above.
}
