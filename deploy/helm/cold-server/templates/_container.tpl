{{- define "cold-server.container" -}}
name: cold-server
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# Not the image's entry point, whose options would override the settings.
command: [cold-server]
args: {{ concat (list "--config" "/etc/cold-server/settings.toml") .Values.extraArgs | toJson }}
workingDir: /tmp
env:
  # Compilers and drivers keep caches there.
  - {name: HOME, value: /tmp}
  {{- if eq .Values.accelerator "cpu" }}
  # Bound, the threads of all pods of a node would share its first cores. Not bound, those that wait
  # must not keep a core from those that they wait for.
  - {name: OMP_PROC_BIND, value: {{ .Values.bindThreads | quote }}}
  {{- if not .Values.bindThreads }}
  - {name: OMP_WAIT_POLICY, value: passive}
  {{- end }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http, containerPort: 8000}
  - {name: grpc, containerPort: 8001}
  - {name: metrics, containerPort: 8002}
{{- $timeout := .Values.startupTimeoutSeconds }}
# No port answers before all models are loaded.
startupProbe:
  httpGet: {path: /v2/health/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ divf $timeout 5 | ceil | int }}
# cold-server ends a tritonserver of which a model process has died, so that this one fails;
# tritonserver itself would go on to answer that it is ready.
readinessProbe:
  httpGet: {path: /v2/health/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
# As patient as the first start: cold-server restarts its models by itself, which takes as long.
livenessProbe:
  httpGet: {path: /v2/health/live, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ divf $timeout 10 | ceil | int }}
lifecycle:
  # SIGTERM closes the HTTP port at once, and balancers learn of it a little later.
  preStop:
    exec: {command: [sleep, {{ .Values.preStopSeconds | toString | quote }}]}
resources: {{- include "cold-server.resources" . | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: {{ .Values.readOnlyRootFilesystem }}
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: settings, mountPath: /etc/cold-server, readOnly: true}
  - {name: models, mountPath: /models, readOnly: true}
  - {name: scratch, mountPath: /tmp}
  - {name: shared-memory, mountPath: /dev/shm}
{{- end }}

{{- define "cold-server.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if ne .Values.accelerator "cpu" }}
{{- $usual := get (dict "nvidia" "nvidia.com/gpu" "ascend" "huawei.com/Ascend910") .Values.accelerator }}
{{- $devices := dict (.Values.deviceResource | default $usual) .Values.deviceCount }}
{{- $resources = merge (dict "requests" $devices "limits" (deepCopy $devices)) $resources }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "cold-server.volumes" -}}
- name: settings
  configMap: {name: {{ include "cold-server.name" . }}}
- name: models
  {{- with .Values.model.volume }}
  {{- if .existingClaim }}
  persistentVolumeClaim: {claimName: {{ .existingClaim }}, readOnly: true}
  {{- else if .nfs }}
  nfs: {{- merge (dict "readOnly" true) .nfs | toYaml | nindent 4 }}
  {{- else }}
  hostPath: {path: {{ .hostPath | quote }}, type: Directory}
  {{- end }}
  {{- end }}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.scratch }}}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
{{- end }}
