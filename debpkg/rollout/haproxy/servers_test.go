package haproxy

import (
	"reflect"
	"testing"
)

func TestParseServers(t *testing.T) {
	t.Parallel()
	answer := "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state\n3 gateways 1 h1 10.0.0.20 " +
		"2\n3 gateways 2 h2 - 2\n\n"
	want := []Server{{"gateways", "h1", "10.0.0.20"}, {"gateways", "h2", ""}}
	if got, ok := parseServers(answer); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := parseServers("Unknown command\n"); ok || len(got) > 0 {
		t.Errorf("%+v, %v", got, ok)
	}
}
