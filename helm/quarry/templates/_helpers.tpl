{{/* The release manifests that are given: a list of {role, text, data, short}, the live one first. */}}
{{- define "quarry.releases" -}}
{{- $found := list -}}
{{- range $role := list "live" "candidate" "previous" -}}
{{- $text := (index $.Values.releases $role).manifest -}}
{{- if $text -}}
{{- $data := fromJson $text -}}
{{- if or (hasKey $data "Error") (not $data.release_id) (not $data.index_generation) -}}
{{- fail (printf "releases.%s.manifest is not a release.json: give the file's text, as make deploy RELEASE=id does" $role) -}}
{{- end -}}
{{- $found = append $found (dict "role" $role "text" $text "id" $data.release_id "generation" $data.index_generation "reader" $data.reader "retriever" $data.retriever) -}}
{{- else if eq $role "live" -}}
{{- fail "releases.live.manifest is empty: make deploy RELEASE=id writes values-release.yaml; give it with --values" -}}
{{- end -}}
{{- end -}}
{{- $ids := dict -}}
{{- range $found -}}
{{- if hasKey $ids .id -}}
{{- fail (printf "releases.%s is the same release as releases.%s: give another, or leave it empty" .role (get $ids .id)) -}}
{{- end -}}
{{- $_ := set $ids .id .role -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- define "quarry.labels" -}}
app.kubernetes.io/name: quarry
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .release }}
quarry/release: {{ .id | quote }}
{{- end }}
{{- end -}}

{{- define "quarry.meta" -}}
{{ include "quarry.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "quarry.image" -}}
{{- $image := .image -}}
{{- $images := .root.Values.images -}}
{{- if $image.digest -}}
{{ printf "%s%s@%s" $images.registry $image.repository $image.digest }}
{{- else -}}
{{ printf "%s%s:%s" $images.registry $image.repository $images.tag }}
{{- end -}}
{{- end -}}

{{/* Pod Security `restricted`, for the pod and, whole again, for each container: Seldon's operator replaces a pod's context by its own. */}}
{{- define "quarry.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "quarry.containerSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "quarry.spread" -}}
{{- if .root.Values.spread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "quarry.labels" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "quarry.nodes" -}}
{{- with .Values.nodes.selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodes.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "quarry.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The step that brings a release's part and compares it with its digests. */}}
{{- define "quarry.fetch" -}}
- name: {{ .name | default "fetch" }}
  image: {{ include "quarry.image" (dict "root" .root "image" .root.Values.ingestion.image) }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  command: [python3, -m, quarry_ingestion.artefacts]
  args:
    - fetch
    - {{ .release.id | quote }}
    - {{ .component }}
    - --from
    - {{ required "artefacts.prefix is empty: say where releases are, as s3://bucket/releases" .root.Values.artefacts.prefix | quote }}
    - --models
    - /mnt/models
    {{- if and (eq .component "retriever") (eq .root.Values.index.store "snapshot") }}
    - --index
    - /mnt/index
    {{- end }}
  {{- with .root.Values.artefacts.environment }}
  env:
    {{- range $name, $value := . }}
    - { name: {{ $name }}, value: {{ $value | quote }} }
    {{- end }}
  {{- end }}
  {{- include "quarry.objectKeys" .root | nindent 2 }}
  securityContext:
    {{- include "quarry.containerSecurity" . | nindent 4 }}
  resources:
    requests: { cpu: 50m, memory: 96Mi }
    limits: { memory: 256Mi }
  volumeMounts:
    - { name: models, mountPath: /mnt/models }
    {{- if and (eq .component "retriever") (eq .root.Values.index.store "snapshot") }}
    - { name: index, mountPath: /mnt/index }
    {{- end }}
    - { name: tmp, mountPath: /tmp }
{{- end -}}

{{/* Keys of an object store that knows no pod's role. */}}
{{- define "quarry.objectKeys" -}}
{{- with .Values.artefacts.existingSecret -}}
envFrom:
  - secretRef: { name: {{ . }} }
{{- end }}
{{- end -}}

{{/* Retriever or reader of one release: the pod, the same under Seldon and as a plain Deployment. */}}
{{- define "quarry.modelPod" -}}
{{- $own := index .root.Values .component -}}
{{- $prefix := printf "QUARRY_%s" (upper .component) -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add 60 $own.lameDuckSec 10 }} # the drain's limit, and some
securityContext:
  {{- include "quarry.podSecurity" . | nindent 2 }}
{{- include "quarry.pullSecrets" .root }}
{{- include "quarry.spread" . }}
{{- include "quarry.nodes" .root }}
{{- if eq .component "retriever" }}
{{- include "quarry.beside" .root }}
{{- end }}
initContainers:
  {{- include "quarry.fetch" . | nindent 2 }}
containers:
  - name: {{ .component }}
    image: {{ include "quarry.image" (dict "root" .root "image" $own.image) }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    env:
      - { name: {{ $prefix }}_MODEL_REF, value: {{ index .release .component | quote }} }
      - { name: {{ $prefix }}_PORT, value: "9000" }
      - { name: {{ $prefix }}_LOAD_TIMEOUT_SEC, value: {{ $own.loadTimeoutSec | quote }} }
      - { name: {{ $prefix }}_LAME_DUCK_SEC, value: {{ $own.lameDuckSec | quote }} }
      {{- if eq .component "retriever" }}
      - { name: QUARRY_RETRIEVER_INDEX_DIR, value: {{ ternary "/mnt/index" (printf "/mnt/home/index/%s" .release.generation) (eq .root.Values.index.store "snapshot") }} }
      - { name: QUARRY_RETRIEVER_EXACT_UP_TO, value: {{ int64 $own.exactUpTo | quote }} }
      {{- if eq .root.Values.index.store "pinecone" }}
      - { name: QUARRY_RETRIEVER_PINECONE_HOST, value: {{ required "index.pinecone.host is empty: give the index's host, from Pinecone's console" .root.Values.index.pinecone.host | quote }} }
      - { name: QUARRY_RETRIEVER_PINECONE_HYBRID, value: {{ .root.Values.index.pinecone.hybrid }} }
      - name: PINECONE_API_KEY
        valueFrom:
          secretKeyRef: { name: {{ include "quarry.pineconeSecret" .root }}, key: api-key }
      {{- end }}
      {{- end }}
    ports:
      - { name: http, containerPort: 9000, protocol: TCP }
    startupProbe:
      httpGet: { path: /health/status, port: http }
      periodSeconds: 2
      failureThreshold: {{ div (add $own.loadTimeoutSec 20) 2 }} # a little more than loading may take: then the process has ended by itself
    readinessProbe:
      httpGet: { path: /health/status, port: http }
      periodSeconds: 5
    lifecycle: {} # else Seldon's operator has a shell sleep before SIGTERM: the services wait by themselves, and there is no shell
    livenessProbe:
      httpGet: { path: /health/ping, port: http }
      periodSeconds: 10
      timeoutSeconds: 5
    securityContext:
      {{- include "quarry.containerSecurity" . | nindent 6 }}
    resources:
      {{- toYaml $own.resources | nindent 6 }}
    volumeMounts:
      - { name: models, mountPath: /mnt/models, readOnly: true }
      {{- if eq .component "retriever" }}
      {{- if eq .root.Values.index.store "snapshot" }}
      - { name: index, mountPath: /mnt/index, readOnly: true }
      {{- else }}
      - { name: home, mountPath: /mnt/home } # SQLite keeps its lock beside a file that is being written
      {{- end }}
      {{- end }}
      - { name: tmp, mountPath: /tmp }
volumes:
  - { name: models, emptyDir: {} }
  {{- if eq .component "retriever" }}
  {{- if eq .root.Values.index.store "snapshot" }}
  - { name: index, emptyDir: {} }
  {{- else }}
  - name: home
    persistentVolumeClaim: { claimName: {{ include "quarry.claim" .root }} }
  {{- end }}
  {{- end }}
  - { name: tmp, emptyDir: {} }
{{- end -}}

{{/* Whoever has the index open runs on one node: readers and writer of SQLite's log share memory, which no network file system carries (sqlite.org/wal.html). */}}
{{- define "quarry.beside" -}}
{{- if ne .Values.index.store "snapshot" }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/name: quarry
            app.kubernetes.io/instance: {{ .Release.Name }}
          matchExpressions:
            - { key: app.kubernetes.io/component, operator: In, values: [retriever, ingestion, collect, reconcile, backup] }
{{- end }}
{{- end -}}

{{- define "quarry.claim" -}}
{{ .Values.index.volume.existingClaim | default (printf "%s-index" .Release.Name) }}
{{- end -}}

{{- define "quarry.pineconeSecret" -}}
{{- if .Values.index.pinecone.existingSecret -}}
{{ .Values.index.pinecone.existingSecret }}
{{- else if .Values.index.pinecone.externalSecret -}}
{{ .Release.Name }}-pinecone
{{- else -}}
{{ fail "index.store is pinecone: name the secret with its key, index.pinecone.existingSecret or index.pinecone.externalSecret" }}
{{- end -}}
{{- end -}}

{{- define "quarry.edgeSecret" -}}
{{ .Values.gateway.edge.existingSecret | default (printf "%s-edge" .Release.Name) }}
{{- end -}}

{{- define "quarry.edge" -}}
{{- if or .Values.gateway.edge.existingSecret .Values.gateway.edge.externalSecrets }}yes{{ end -}}
{{- end -}}

{{/* Where a release's retriever or reader answers. Seldon names the service <deployment>-<predictor>; without an engine its port is the container's. */}}
{{- define "quarry.modelUrl" -}}
http://{{ .root.Release.Name }}-{{ .component }}-{{ .release.id }}{{ if eq .root.Values.mode "seldon" }}-default{{ end }}:9000
{{- end -}}

{{- define "quarry.dns" -}}
- to:
    - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: kube-system } }
      podSelector: { matchLabels: { k8s-app: kube-dns } }
  ports:
    - { protocol: UDP, port: 53 }
    - { protocol: TCP, port: 53 }
{{- end -}}

{{/* To S3 (Pinecone, the issuer of keys), and to the node's agent that hands out a role's credentials. */}}
{{- define "quarry.outside" -}}
- to:
    {{- toYaml .Values.network.outside | nindent 4 }}
  ports:
    - { protocol: TCP, port: 443 }
- to:
    - ipBlock: { cidr: 169.254.170.23/32 }
  ports:
    - { protocol: TCP, port: 80 }
{{- with .Values.network.objectStore.peers }}
- to:
    {{- toYaml . | nindent 4 }}
  ports:
    - { protocol: TCP, port: {{ $.Values.network.objectStore.port }} }
{{- end }}
{{- end -}}
