package testcloud

import "net/http"

// operation finds out what the request asks for. One that this cloud does not know has no run function.
func (c *call) operation() operation {
	for _, feature := range []string{"acl", "tagging", "policy", "torrent", "attributes", "restore", "select", "cors"} {
		if c.query.Has(feature) {
			return operation{name: "Unknown"}
		}
	}
	if c.Key == "" {
		return c.bucketOperation()
	}
	versioned := c.query.Has("versionId")
	upload := c.query.Has("uploadId")
	switch c.r.Method {
	case http.MethodGet:
		if upload {
			return operation{"ListParts", "s3:ListMultipartUploadParts", (*call).listParts, ""}
		}
		return operation{"GetObject", versionAction("s3:GetObject", versioned), (*call).getObject, "kms:Decrypt"}
	case http.MethodHead:
		return operation{"HeadObject", versionAction("s3:GetObject", versioned), (*call).getObject, ""}
	case http.MethodPut:
		return c.putOperation(upload)
	case http.MethodPost:
		switch {
		case c.query.Has("uploads"):
			return operation{"CreateMultipartUpload", "s3:PutObject", (*call).createUpload, "kms:GenerateDataKey"}
		case upload:
			return operation{"CompleteMultipartUpload", "s3:PutObject", (*call).completeUpload, "kms:Decrypt"}
		}
	case http.MethodDelete:
		if upload {
			return operation{"AbortMultipartUpload", "s3:AbortMultipartUpload", (*call).abortUpload, ""}
		}
		return operation{"DeleteObject", versionAction("s3:DeleteObject", versioned), (*call).deleteObject, ""}
	}
	return operation{name: "Unknown"}
}

func (c *call) putOperation(upload bool) operation {
	switch {
	case c.r.Header.Get("X-Amz-Copy-Source") != "":
		return operation{name: "CopyObject"}
	case upload:
		return operation{"UploadPart", "s3:PutObject", (*call).uploadPart, "kms:GenerateDataKey"}
	}
	return operation{"PutObject", "s3:PutObject", (*call).putObject, "kms:GenerateDataKey"}
}

func (c *call) bucketOperation() operation {
	switch {
	case c.r.Method == http.MethodHead:
		return operation{"HeadBucket", "s3:ListBucket", (*call).headBucket, ""}
	case c.r.Method != http.MethodGet:
	case c.query.Has("location"):
		return operation{"GetBucketLocation", "s3:GetBucketLocation", (*call).getBucketLocation, ""}
	case c.query.Get("list-type") == "2":
		return operation{"ListObjectsV2", "s3:ListBucket", (*call).listObjects, ""}
	case !c.query.Has("versions") && !c.query.Has("uploads") && !c.query.Has("versioning"):
		return operation{"ListObjects", "s3:ListBucket", (*call).listObjects, ""}
	}
	return operation{name: "Unknown"}
}

func versionAction(action string, versioned bool) string {
	if versioned {
		return action + "Version"
	}
	return action
}

func (c *call) headBucket() *Error {
	c.reply(http.StatusOK)
	return nil
}

func (c *call) getBucketLocation() *Error {
	type LocationConstraint struct {
		Region string `xml:",chardata"`
	}
	region := c.bucket.Region
	if region == "us-east-1" {
		region = "" // the oldest region has no name here
	}
	c.replyXML(http.StatusOK, LocationConstraint{region})
	return nil
}

func (c *call) deleteObject() *Error {
	version, marker := c.bucket.remove(c.Key, c.VersionID)
	if version != "" {
		c.w.Header().Set("X-Amz-Version-Id", version)
	}
	if marker {
		c.w.Header().Set("X-Amz-Delete-Marker", "true")
	}
	c.reply(http.StatusNoContent)
	return nil
}
