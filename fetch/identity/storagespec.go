package identity

import (
	"encoding/json"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// StorageSpec is what KServe's storage-spec (spec.predictor.model.storage) says of S3: the entry of the storage-config
// secret, in STORAGE_CONFIG, with the InferenceService's parameters, in STORAGE_OVERRIDE_CONFIG, over it. A field is
// nil where neither sets it; one that is set counts more than the variable of the same meaning, as in KServe's own
// initializer.
type StorageSpec struct {
	EndpointURL     *string // AWS_ENDPOINT_URL, for S3 only
	AccessKeyID     *string // AWS_ACCESS_KEY_ID
	SecretAccessKey *string // AWS_SECRET_ACCESS_KEY
	Region          *string // AWS_DEFAULT_REGION
	CABundle        *string // AWS_CA_BUNDLE, a file
	VerifySSL       *string // S3_VERIFY_SSL: "0" and "false" are false
	Anonymous       *string // awsAnonymousCredential: "true" is true
}

// ParseStorageSpec reads the two variables; either may be empty. Storage of a type other than s3 gives an empty
// StorageSpec. Errors are of kind fault.Usage and repeat nothing of the content.
func ParseStorageSpec(config, override string) (StorageSpec, error) {
	merged := map[string]any{}
	for _, v := range []struct{ name, text string }{{"STORAGE_CONFIG", config}, {"STORAGE_OVERRIDE_CONFIG", override}} {
		if strings.TrimSpace(v.text) == "" {
			continue
		}
		if err := json.Unmarshal([]byte(v.text), &merged); err != nil {
			return StorageSpec{}, fault.New(fault.Usage,
				"correct the storage-config secret or the parameters of spec.predictor.model.storage",
				"%s is not a JSON object", v.name)
		}
	}
	if merged["type"] != "s3" {
		return StorageSpec{}, nil
	}
	var s StorageSpec
	for key, field := range s.fields() {
		value, ok := merged[key]
		if !ok {
			continue
		}
		text, ok := value.(string)
		if !ok {
			return StorageSpec{}, fault.New(fault.Usage, "write it in quotes",
				"%s in the storage configuration is not a string", key)
		}
		*field = &text
	}
	return s, nil
}

func (s *StorageSpec) fields() map[string]**string {
	return map[string]**string{
		"endpoint_url":      &s.EndpointURL,
		"access_key_id":     &s.AccessKeyID,
		"secret_access_key": &s.SecretAccessKey,
		"region":            &s.Region,
		"ca_bundle":         &s.CABundle,
		"verify_ssl":        &s.VerifySSL,
		"anonymous":         &s.Anonymous,
	}
}
