package tyk

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// The rules below are those of the gateway's tags 3.0.0 to 5.14.0.

func passesWithoutPlugin(version string) bool {
	return older(version, 4, 0, 13) || !older(version, 4, 1, 0) && older(version, 5, 0, 1)
}

func older(version string, major, minor, patch int) bool {
	var v [3]int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2])
	return slices.Compare(v[:], []int{major, minor, patch}) < 0
}

func apiError(message string) map[string]string {
	return map[string]string{"status": "error", "message": message}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
