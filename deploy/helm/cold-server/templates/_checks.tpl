{{- /* What the schema cannot say. */ -}}
{{- define "cold-server.checks" -}}
{{- $settings := .Values.settings }}
{{- $names := list }}
{{- range .Values.model.adapters }}
{{- if has .name $names }}
{{- fail (printf "model.adapters: two have the name %s" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- with $settings.default_adapter }}
{{- if not (has . $names) }}
{{- fail (printf "settings.default_adapter: %s is not among model.adapters" .) }}
{{- end }}
{{- end }}
{{- if lt (int $settings.max_step_tokens) (int $settings.max_sequences) }}
{{- fail (printf "settings.max_step_tokens: must be at least settings.max_sequences, %d, got %d" (int $settings.max_sequences) (int $settings.max_step_tokens)) }}
{{- end }}
{{- with $settings.max_adapters }}
{{- if lt (int .) (int $settings.max_sequences) }}
{{- fail (printf "settings.max_adapters: must be 0 or at least settings.max_sequences, %d, got %d" (int $settings.max_sequences) (int .)) }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if lt (int .maxReplicas) (int .minReplicas) }}
{{- fail (printf "autoscaling.maxReplicas: must be at least autoscaling.minReplicas, %d, got %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- with .Values.service }}
{{- if and .headless (ne .type "ClusterIP") }}
{{- fail (printf "service.headless: only with service.type ClusterIP, not %s" .type) }}
{{- end }}
{{- end }}
{{- with .Values.rollingUpdate }}
{{- if not (or (int .maxSurge) (int .maxUnavailable)) }}
{{- fail "rollingUpdate.maxSurge: must be at least 1 where rollingUpdate.maxUnavailable is 0" }}
{{- end }}
{{- end }}
{{- end }}
