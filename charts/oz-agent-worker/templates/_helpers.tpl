{{- define "oz-agent-worker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "oz-agent-worker.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "oz-agent-worker.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "oz-agent-worker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "oz-agent-worker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "oz-agent-worker.labels" -}}
helm.sh/chart: {{ include "oz-agent-worker.chart" . }}
{{ include "oz-agent-worker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* Not the selector's, or the test's Pod would count as a worker. */ -}}
{{- define "oz-agent-worker.testLabels" -}}
helm.sh/chart: {{ include "oz-agent-worker.chart" . }}
app.kubernetes.io/name: {{ include "oz-agent-worker.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "oz-agent-worker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "oz-agent-worker.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "oz-agent-worker.apiKeySecretName" -}}
{{- $secret := .Values.warp.apiKeySecret -}}
{{- if $secret.name -}}
{{- $secret.name -}}
{{- else if $secret.create -}}
{{- printf "%s-api-key" (include "oz-agent-worker.fullname" .) -}}
{{- else -}}
{{- fail "warp.apiKeySecret.name is required when warp.apiKeySecret.create is false" -}}
{{- end -}}
{{- end -}}

{{- /* A text that may have been written as a number, which Helm reads as a float: 20261122 must not become 2.0261122e+07. */ -}}
{{- define "oz-agent-worker.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{- /* Where the Jobs run: the Role must be there. */ -}}
{{- define "oz-agent-worker.jobNamespace" -}}
{{- default .Release.Namespace .Values.kubernetesBackend.namespace -}}
{{- end -}}

{{- /* "true" when the worker exports to this exporter: include "…exportsTo" (list . "prometheus") */ -}}
{{- define "oz-agent-worker.exportsTo" -}}
{{- $metrics := (first .).Values.metrics -}}
{{- if and $metrics.enabled (has (last .) (splitList "," (nospace $metrics.exporter))) -}}true{{- end -}}
{{- end -}}

{{- /* A probe: include "…probe" (list . .Values.worker.livenessProbe "/livez"). The handler is ours unless there is another. */ -}}
{{- define "oz-agent-worker.probe" -}}
{{- $probe := index . 1 -}}
{{- $path := index . 2 -}}
{{- if or $probe.exec $probe.httpGet $probe.tcpSocket $probe.grpc -}}
{{- toYaml $probe -}}
{{- else -}}
{{- merge (dict "httpGet" (dict "path" $path "port" (int64 (first .).Values.metrics.port))) (omit $probe "exec" "httpGet" "tcpSocket" "grpc") | toYaml -}}
{{- end -}}
{{- end -}}

{{- /* Seconds that the Pod gets after SIGTERM. Beyond the drain and the grace period the worker may take 10 s to tear down, 10 s to
report, 2 s to close and 5 s for the last metrics: docs/protocol.md, "Shutdown". */ -}}
{{- define "oz-agent-worker.terminationGracePeriodSeconds" -}}
{{- $own := int64 .Values.worker.terminationGracePeriodSeconds -}}
{{- $drain := int64 .Values.worker.drainTimeoutSeconds -}}
{{- $cancel := ternary 10 (int64 .Values.worker.cancelGracePeriodSeconds) (kindIs "invalid" .Values.worker.cancelGracePeriodSeconds) -}}
{{- if or $drain (not (kindIs "invalid" .Values.worker.cancelGracePeriodSeconds)) -}}
{{- max $own (add $drain $cancel 30) -}}
{{- else -}}
{{- $own -}}
{{- end -}}
{{- end -}}

{{- /* The worker's file. Made as a whole and not line by line, so that no value can break out of its place. */ -}}
{{- define "oz-agent-worker.config" -}}
{{- $worker := .Values.worker -}}
{{- $file := dict
  "worker_id" (required "worker.workerId is required" $worker.workerId | include "oz-agent-worker.text")
  "cleanup" $worker.cleanup
  "max_concurrent_tasks" (int64 $worker.maxConcurrentTasks) -}}
{{- with $worker.idleOnComplete }}{{ $_ := set $file "idle_on_complete" . }}{{ end -}}
{{- $backend := dict -}}
{{- if eq $worker.backend "kubernetes" -}}
{{- $values := .Values.kubernetesBackend -}}
{{- $_ := set $backend "namespace" (include "oz-agent-worker.jobNamespace" .) -}}
{{- $_ := set $backend "image_pull_policy" $values.imagePullPolicy -}}
{{- $_ := set $backend "use_image_volumes" $values.useImageVolumes -}}
{{- $_ := set $backend "unschedulable_timeout" (toString $values.unschedulableTimeout) -}}
{{- with $values.defaultImage }}{{ $_ := set $backend "default_image" . }}{{ end -}}
{{- with $values.preflightImage }}{{ $_ := set $backend "preflight_image" . }}{{ end -}}
{{- with $values.sidecarImage }}{{ $_ := set $backend "sidecar_image" . }}{{ end -}}
{{- with $values.codingCliSidecars }}{{ $_ := set $backend "coding_cli_sidecars" . }}{{ end -}}
{{- with $values.extraLabels }}{{ $_ := set $backend "extra_labels" . }}{{ end -}}
{{- with $values.extraAnnotations }}{{ $_ := set $backend "extra_annotations" . }}{{ end -}}
{{- with $values.activeDeadlineSeconds }}{{ $_ := set $backend "active_deadline_seconds" (int64 .) }}{{ end -}}
{{- if and $worker.cleanup $values.ttlSecondsAfterFinished }}
{{- $_ := set $backend "ttl_seconds_after_finished" (int64 $values.ttlSecondsAfterFinished) }}
{{- end -}}
{{- with $values.workspaceSizeLimit }}{{ $_ := set $backend "workspace_size_limit" . }}{{ end -}}
{{- with $values.podTemplate }}{{ $_ := set $backend "pod_template" . }}{{ end -}}
{{- with $values.preflightResources }}{{ $_ := set $backend "preflight_resources" . }}{{ end -}}
{{- include "oz-agent-worker.commands" (list $backend $values) -}}
{{- else if eq $worker.backend "direct" -}}
{{- $values := .Values.directBackend -}}
{{- $_ := set $backend "workspace_root" $values.workspaceRoot -}}
{{- with $values.ozPath }}{{ $_ := set $backend "oz_path" . }}{{ end -}}
{{- with $values.environment }}{{ $_ := set $backend "environment" . }}{{ end -}}
{{- include "oz-agent-worker.commands" (list $backend $values) -}}
{{- else if eq $worker.backend "command" -}}
{{- $values := .Values.commandBackend -}}
{{- $dispatch := required "commandBackend.dispatchCommand is required with the backend command" $values.dispatchCommand -}}
{{- $_ := set $backend "dispatch_command" $dispatch -}}
{{- with $values.cancelCommand }}{{ $_ := set $backend "cancel_command" . }}{{ end -}}
{{- with $values.dispatchTimeout }}{{ $_ := set $backend "dispatch_timeout" . }}{{ end -}}
{{- with $values.environment }}{{ $_ := set $backend "environment" . }}{{ end -}}
{{- end -}}
{{- $_ := set $file "backend" (dict $worker.backend $backend) -}}
{{- toYaml $file -}}
{{- end -}}

{{- /* What runs before and after the agent, without the line's end that a block of YAML has. */ -}}
{{- define "oz-agent-worker.commands" -}}
{{- $backend := first . -}}
{{- with (last .).setupCommand }}{{ $_ := set $backend "setup_command" (trimSuffix "\n" .) }}{{ end -}}
{{- with (last .).teardownCommand }}{{ $_ := set $backend "teardown_command" (trimSuffix "\n" .) }}{{ end -}}
{{- end -}}
