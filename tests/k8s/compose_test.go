// deploy/compose.yaml, loaded by the library that Docker's own compose is made
// with: against the schema of the compose specification, and looked at.
package k8s

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

func loadCompose(t testing.TB, change func(string) string) (*types.Project, error) {
	t.Helper()
	file, err := filepath.Abs(filepath.Join(root, "deploy/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: []byte(change(string(text)))}},
	})
}

func mustLoadCompose(t testing.TB) *types.Project {
	t.Helper()
	project, err := loadCompose(t, func(text string) string { return text })
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestCompose(t *testing.T) {
	project := mustLoadCompose(t)
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for name, service := range project.Services {
		if service.HealthCheck == nil || len(service.HealthCheck.Test) == 0 {
			t.Errorf("nothing says when %s is healthy", name)
		}
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, drain := range map[string]time.Duration{"gateway": 30 * time.Second, "worker": 60 * time.Second} {
		service := project.Services[name]
		if !strings.Contains(string(dockerfile), " AS "+service.Build.Target+"\n") || service.Build.Context != filepath.Dir(filepath.Dir(filepath.Join(project.WorkingDir, "x"))) {
			t.Errorf("%s: builds %s in %s", name, service.Build.Target, service.Build.Context)
		}
		if time.Duration(*service.StopGracePeriod) < drain+drainGrace+room {
			t.Errorf("%s is killed before it has drained", name)
		}
		for server, condition := range service.DependsOn {
			if condition.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s does not wait for %s", name, server)
			}
		}
		if len(service.DependsOn) != 2 || !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) {
			t.Errorf("%s: depends on %v, writes or may more than it needs", name, service.DependsOn)
		}
		if args := service.Environment["PENSTOCK_AMQP_QUEUE_DECLARE_ARGS"]; args == nil || *args != "x-queue-type:quorum" {
			t.Errorf("%s: declares no quorum queue", name)
		}
	}
	if !slices.Contains(project.Services["worker"].Command, "--drain_deadline=60s") {
		t.Error("the worker drains for another time than this test thinks")
	}
	redis := strings.Join(project.Services["redis"].Command, " ")
	if !strings.Contains(redis, "--appendonly yes") {
		t.Errorf("redis forgets: %s", redis)
	}
	rabbit := project.Services["rabbitmq"].Volumes
	if !slices.ContainsFunc(rabbit, func(v types.ServiceVolumeConfig) bool {
		return filepath.Base(v.Source) == "rabbitmq.conf" && strings.HasSuffix(v.Target, ".conf")
	}) {
		t.Error("rabbitmq has not our consumer_timeout")
	}
}

func TestMistakesInComposeAreFound(t *testing.T) {
	for _, c := range []struct{ old, new, found string }{
		{"healthcheck:", "healtcheck:", "healtcheck"},
		{"stop_grace_period: 75s", "stop_grace: 75s", "stop_grace"},
		{"interval: 10s", "intervall: 10s", "intervall"},
		{"condition: service_healthy", "condition: healthy", "condition"},
		{"redis:\n        condition", "radis:\n        condition", "radis"},
	} {
		_, err := loadCompose(t, func(text string) string {
			if !strings.Contains(text, c.old) {
				t.Fatalf("there is no %q", c.old)
			}
			return strings.Replace(text, c.old, c.new, 1)
		})
		if err == nil || !strings.Contains(err.Error(), c.found) {
			t.Errorf("%q: %v", c.new, err)
		}
	}
}
