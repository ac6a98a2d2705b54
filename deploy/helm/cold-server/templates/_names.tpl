{{- define "cold-server.name" -}}
{{ .Release.Name }}
{{- end }}

{{- define "cold-server.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "cold-server.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "cold-server.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cold-server.labels" -}}
{{ include "cold-server.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
