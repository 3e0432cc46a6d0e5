# The image of sealfetch: one static binary and CA certificates, on nothing.
#
#   docker build -t sealfetch .                                  builds everything, needs the Go image
#   make image-root && docker build --target prebuilt .          copies what `make image-root` built, needs no image at all
#
# Both build the same binary (-trimpath, no cgo, no build id from the machine). There is no shell, no package manager and
# no writable path in the image: it runs with a read-only root filesystem, as any UID, without capabilities.

ARG GO_VERSION=1.26

FROM scratch AS base
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="sealfetch" \
      org.opencontainers.image.description="KServe storage initializer for encrypted models" \
      org.opencontainers.image.source="https://github.com/sealfetch/sealfetch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["/sealfetch", "init"]

FROM base AS prebuilt
ARG TARGETARCH
COPY bin/image/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY bin/image/sealfetch-linux-${TARGETARCH:-amd64} /sealfetch

FROM --platform=${BUILDPLATFORM:-linux/amd64} docker.io/library/golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=""
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=linux GOARCH=${TARGETARCH:-amd64} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=${VERSION}" -o /out/sealfetch ./cmd/sealfetch

FROM base AS image
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sealfetch /sealfetch
