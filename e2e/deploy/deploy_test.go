package deploy

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const root = "../../deploy"

// storageContainer is KServe's ClusterStorageContainer (serving.kserve.io/v1alpha1), as of v0.20.
type storageContainer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Container           corev1.Container `json:"container"`
		SupportedURIFormats []struct {
			Prefix string `json:"prefix"`
			Regex  string `json:"regex"`
		} `json:"supportedUriFormats"`
		WorkloadType               string `json:"workloadType"`
		SupportsMultiModelDownload *bool  `json:"supportsMultiModelDownload"`
	} `json:"spec"`
	Disabled *bool `json:"disabled"`
}

// inferenceService is what the examples use of KServe's InferenceService (serving.kserve.io/v1beta1).
type inferenceService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Predictor struct {
			ServiceAccountName   string            `json:"serviceAccountName"`
			StorageContainerName string            `json:"storageContainerName"`
			NodeSelector         map[string]string `json:"nodeSelector"`
			Volumes              []corev1.Volume   `json:"volumes"`
			Model                struct {
				ModelFormat struct {
					Name string `json:"name"`
				} `json:"modelFormat"`
				StorageURI   string                      `json:"storageUri"`
				Resources    corev1.ResourceRequirements `json:"resources"`
				VolumeMounts []corev1.VolumeMount        `json:"volumeMounts"`
			} `json:"model"`
		} `json:"predictor"`
	} `json:"spec"`
}

// manifests is what one kustomization makes.
type manifests struct {
	containers []storageContainer
	services   []inferenceService
	accounts   []corev1.ServiceAccount
	configMaps []corev1.ConfigMap
}

func TestManifests(t *testing.T) {
	found := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "kustomization.yaml" {
			found++
			dir := filepath.Dir(path)
			t.Run(filepath.Base(dir), func(t *testing.T) { build(t, dir).check(t) })
		}
		return err
	})
	if err != nil || found < 4 {
		t.Fatalf("%d kustomizations: %v", found, err)
	}
}

// build runs kustomize and decodes every document strictly: an unknown field or a field twice is an error.
func build(t *testing.T, dir string) *manifests {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m := new(manifests)
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		m.decode(t, r.GetKind(), text)
	}
	return m
}

func (m *manifests) decode(t *testing.T, kind string, text []byte) {
	t.Helper()
	switch kind {
	case "ClusterStorageContainer":
		m.containers = append(m.containers, strict[storageContainer](t, text))
	case "InferenceService":
		m.services = append(m.services, strict[inferenceService](t, text))
	case "ServiceAccount":
		m.accounts = append(m.accounts, strict[corev1.ServiceAccount](t, text))
	case "ConfigMap":
		m.configMaps = append(m.configMaps, strict[corev1.ConfigMap](t, text))
	case "NetworkPolicy":
		strict[networkingv1.NetworkPolicy](t, text)
	case "Namespace":
		strict[corev1.Namespace](t, text)
	default:
		t.Errorf("%s: a kind that this test does not know", kind)
	}
}

func strict[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	return v
}

func (m *manifests) check(t *testing.T) {
	t.Helper()
	if len(m.containers) == 0 {
		t.Error("no ClusterStorageContainer")
	}
	for _, c := range m.containers {
		m.checkContainer(t, c)
	}
	for _, s := range m.services {
		m.checkService(t, s)
	}
	m.checkSettings(t)
}

func (m *manifests) checkContainer(t *testing.T, s storageContainer) {
	t.Helper()
	c := s.Spec.Container
	if c.Name != "storage-initializer" || len(c.Args) > 0 || len(c.Command) > 0 || c.Image == "" || len(c.VolumeMounts) > 0 {
		t.Errorf("%s: name %q, image %q, args %q, command %q, mounts %v", s.Name, c.Name, c.Image, c.Args, c.Command, c.VolumeMounts)
	}
	if s.Spec.WorkloadType != "initContainer" || s.Disabled != nil {
		t.Errorf("%s: workload type %q", s.Name, s.Spec.WorkloadType)
	}
	if c.Resources.Limits.Memory().IsZero() {
		t.Errorf("%s: no memory limit, so KServe's own 1Gi holds", s.Name)
	}
	yes := func(b *bool) bool { return b != nil && *b }
	p := c.SecurityContext
	if p == nil || !yes(p.RunAsNonRoot) || !yes(p.ReadOnlyRootFilesystem) || p.AllowPrivilegeEscalation == nil || *p.AllowPrivilegeEscalation ||
		p.Capabilities == nil || !slices.Equal(p.Capabilities.Drop, []corev1.Capability{"ALL"}) || p.SeccompProfile == nil {
		t.Errorf("%s: the security context is not the restricted one", s.Name)
	}
}

func (m *manifests) checkService(t *testing.T, s inferenceService) {
	t.Helper()
	p := s.Spec.Predictor
	container := m.containerFor(t, s)
	if container == nil {
		return
	}
	i := slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == "kserve-provision-location" })
	if i < 0 || p.Volumes[i].EmptyDir == nil || p.Volumes[i].EmptyDir.Medium != corev1.StorageMediumMemory || p.Volumes[i].EmptyDir.SizeLimit == nil {
		t.Errorf("%s: no volume kserve-provision-location in memory with a sizeLimit", s.Name)
		return
	}
	least := p.Volumes[i].EmptyDir.SizeLimit.DeepCopy()
	least.Add(resource.MustParse("64Mi")) // what sealfetch wants for itself
	if limit := container.Spec.Container.Resources.Limits.Memory(); limit.Cmp(least) < 0 {
		t.Errorf("%s: the memory limit %s of %s does not hold the volume", s.Name, limit, container.Name)
	}
	if request := p.Model.Resources.Requests.Memory(); len(m.containers) > 0 && request.IsZero() {
		t.Errorf("%s: no memory request", s.Name)
	}
	if !slices.ContainsFunc(p.Model.VolumeMounts, func(v corev1.VolumeMount) bool {
		return v.Name == "kserve-provision-location" && v.MountPath == "/mnt/models" && v.ReadOnly
	}) {
		t.Errorf("%s: the volume is not mounted, so Knative refuses it", s.Name)
	}
	if !slices.ContainsFunc(m.accounts, func(a corev1.ServiceAccount) bool {
		return a.Name == p.ServiceAccountName && a.Namespace == s.Namespace
	}) {
		t.Errorf("%s: no ServiceAccount %s", s.Name, p.ServiceAccountName)
	}
}

// containerFor returns the one container that KServe would run.
func (m *manifests) containerFor(t *testing.T, s inferenceService) *storageContainer {
	t.Helper()
	var all []*storageContainer
	for i, c := range m.containers {
		if name := s.Spec.Predictor.StorageContainerName; name != "" && name != c.Name {
			continue
		}
		for _, format := range c.Spec.SupportedURIFormats {
			if format.Regex != "" {
				t.Errorf("%s: one bad regex fails every look-up; use prefixes", c.Name)
			}
			if format.Prefix != "" && strings.HasPrefix(s.Spec.Predictor.Model.StorageURI, format.Prefix) {
				all = append(all, &m.containers[i])
			}
		}
	}
	if len(all) != 1 {
		t.Errorf("%s: %d containers are for %s", s.Name, len(all), s.Spec.Predictor.Model.StorageURI)
		return nil
	}
	return all[0]
}

// checkSettings wants every SEALFETCH_ variable to be one that the program knows, and every key of a ConfigMap that is
// referred to, to be there.
func (m *manifests) checkSettings(t *testing.T) {
	t.Helper()
	env := map[string]string{}
	for _, c := range m.configMaps {
		maps.Copy(env, c.Data)
	}
	maps.DeleteFunc(env, func(name, _ string) bool { return !strings.HasPrefix(name, "SEALFETCH_") })
	for _, c := range m.containers {
		for _, v := range c.Spec.Container.Env {
			env[v.Name] = v.Value
			if ref := v.ValueFrom; ref != nil && ref.ConfigMapKeyRef != nil && len(m.services) > 0 {
				env[v.Name] = m.lookup(t, ref.ConfigMapKeyRef)
			}
		}
	}
	cmd := exec.Command(program, "version")
	cmd.Env = []string{}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func (m *manifests) lookup(t *testing.T, ref *corev1.ConfigMapKeySelector) string {
	t.Helper()
	for _, c := range m.configMaps {
		if value, ok := c.Data[ref.Key]; ok && c.Name == ref.Name {
			return value
		}
	}
	if ref.Optional == nil || !*ref.Optional {
		t.Errorf("no key %s in a ConfigMap %s", ref.Key, ref.Name)
	}
	return ""
}

// program is sealfetch, to be asked which variables it knows.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "deploy")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "sealfetch")
	build := exec.Command("go", "build", "-o", program, "./cmd/sealfetch")
	build.Dir = filepath.Join("..", "..")
	var out bytes.Buffer
	build.Stdout, build.Stderr = &out, &out
	code := 1
	if err := build.Run(); err != nil {
		os.Stderr.Write(out.Bytes())
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}
