package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RewriteSecret has the API server store a Secret anew, encrypted with the key
// that it uses now. An empty patch does so: a value that was not encrypted with
// the first key is written even where nothing in it changes
// (k8s.io/apiserver/pkg/storage/etcd3, GuaranteedUpdate). Unlike reading and
// replacing it needs no look at the Secret's content, of which nothing comes
// here, and cannot undo what others write meanwhile. One that is gone is no
// error.
func RewriteSecret(ctx context.Context, c *Client, namespace, name string) error {
	path := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/secrets/" + url.PathEscape(name)
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, c.server+path, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	request.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	request.Header.Set("User-Agent", "nodeagent")
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("write Secret %s/%s anew: %w: %w", namespace, name, ErrUnreachable, err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		_, err := io.Copy(io.Discard, response.Body) // so that the connection can be used again
		return err
	case http.StatusNotFound:
		return nil
	}
	return fmt.Errorf("write Secret %s/%s anew: %w", namespace, name, refusal(response))
}

// refusal is what an API server says of a request that it did not fulfil.
func refusal(response *http.Response) error {
	var said metav1.Status
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&said); err != nil || said.Message == "" {
		return errors.New(response.Status)
	}
	return fmt.Errorf("%s: %s", response.Status, said.Message)
}

// Loaded is what an API server says of the encryption configuration that it
// uses.
type Loaded struct {
	// Digest of the file, "sha256:" and 64 hexadecimal digits; empty where the
	// server is of a version that does not say.
	Digest string
	// At is when it was read last.
	At time.Time
}

// The metrics that say it.
const (
	metricConfig  = "apiserver_encryption_config_controller_last_config_info"
	metricReload  = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
	metricStarted = "process_start_time_seconds"
)

// EncryptionConfig asks an API server which encryption configuration it uses.
func EncryptionConfig(ctx context.Context, c *Client) (Loaded, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+"/metrics", nil)
	if err != nil {
		return Loaded{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s for its encryption configuration: %w: %w", c.server, ErrUnreachable, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Loaded{}, fmt.Errorf("ask %s for its encryption configuration: %w", c.server, refusal(response))
	}
	loaded, err := parseLoaded(response.Body)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s for its encryption configuration: %w", c.server, err)
	}
	return loaded, nil
}

// parseLoaded reads metrics in the text format.
func parseLoaded(r io.Reader) (Loaded, error) {
	var l Loaded
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, metricConfig+"{"):
			if _, rest, found := strings.Cut(line, `,hash="`); found {
				l.Digest, _, _ = strings.Cut(rest, `"`)
			}
		case strings.HasPrefix(line, metricReload+"{") && strings.Contains(line, `status="success"`), strings.HasPrefix(line, metricStarted+" "):
			seconds, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if at := time.UnixMilli(int64(seconds * 1000)); err == nil && at.After(l.At) {
				l.At = at
			}
		}
	}
	return l, lines.Err()
}
