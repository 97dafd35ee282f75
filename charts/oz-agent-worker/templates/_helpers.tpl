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

{{- /* The labels of an object with the operator's, which win: include "…labelsWith" (list . $more) */ -}}
{{- define "oz-agent-worker.labelsWith" -}}
{{- merge (dict) (last . | default dict) (include "oz-agent-worker.labels" (first .) | fromYaml) | toYaml -}}
{{- end -}}

{{- /* The Pods' labels. By those of the selector everything finds them: another value would lose them. */ -}}
{{- define "oz-agent-worker.podLabels" -}}
{{- $ours := include "oz-agent-worker.selectorLabels" . | fromYaml -}}
{{- range $name, $value := .Values.worker.podLabels -}}
{{- if and (hasKey $ours $name) (ne (get $ours $name) $value) -}}
{{- fail (printf "worker.podLabels: %s is the chart's own, by which it finds its Pods; leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- merge (dict) .Values.worker.podLabels $ours | toYaml -}}
{{- end -}}

{{- /* The Pods' annotations. Ours roll the Pods out when what they name has changed. */ -}}
{{- define "oz-agent-worker.podAnnotations" -}}
{{- $secret := .Values.warp.apiKeySecret -}}
{{- $ours := dict "checksum/config" (include (print .Template.BasePath "/configmap.yaml") . | sha256sum) -}}
{{- if and $secret.create (not $secret.mountAsFile) -}}
{{- $_ := set $ours "checksum/secret" (include (print .Template.BasePath "/secret.yaml") . | sha256sum) -}}
{{- end -}}
{{- range $name, $value := .Values.worker.podAnnotations -}}
{{- if hasKey $ours $name -}}
{{- fail (printf "worker.podAnnotations: %s is the chart's own, which rolls out what has changed; leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- merge (dict) .Values.worker.podAnnotations $ours | toYaml -}}
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

{{- /* A list of things with names, each name once: the last of a name, as Kubernetes reads such lists. */ -}}
{{- define "oz-agent-worker.once" -}}
{{- $last := dict -}}
{{- range $at, $entry := . }}{{ $_ := set $last $entry.name $at }}{{ end -}}
{{- $once := list -}}
{{- range $at, $entry := . }}{{ if eq (get $last $entry.name) $at }}{{ $once = append $once $entry }}{{ end }}{{ end -}}
{{- toYaml $once -}}
{{- end -}}

{{- /* What must not stand in worker.extraEnv or metrics.extraEnv, and why: what would leave the probes, the Service or the
names of several workers with nothing. */ -}}
{{- define "oz-agent-worker.refusedEnv" -}}
{{- $given := dict -}}
{{- range concat .Values.worker.extraEnv (ternary .Values.metrics.extraEnv list .Values.metrics.enabled) }}{{ $_ := set $given .name (.value | default "") }}{{ end -}}
{{- $exporter := get $given "OTEL_METRICS_EXPORTER" -}}
{{- $host := get $given "OTEL_EXPORTER_PROMETHEUS_HOST" -}}
{{- $refused := dict -}}
{{- if gt (int64 .Values.worker.replicas) 1 -}}
{{- $_ := set $refused "POD_NAME" "is the chart's own where several workers are named by it; leave it out" -}}
{{- end -}}
{{- if or (include "oz-agent-worker.exportsTo" (list . "prometheus")) (not $exporter) (contains "prometheus" (lower $exporter)) -}}
{{- $_ := set $refused "OTEL_METRICS_EXPORTER" "decides where the probes find the worker; set metrics.enabled and metrics.exporter" -}}
{{- end -}}
{{- if include "oz-agent-worker.exportsTo" (list . "prometheus") -}}
{{- $_ := set $refused "OTEL_EXPORTER_PROMETHEUS_PORT" "is where probes and Service find the worker; set metrics.port" -}}
{{- $_ := set $refused "OTEL_SDK_DISABLED" "leaves the probes nothing to ask; set metrics.enabled" -}}
{{- if regexMatch "^(localhost|127[.].*|[[]?::1[]]?)$" $host -}}
{{- $_ := set $refused "OTEL_EXPORTER_PROMETHEUS_HOST" "must not be the Pod alone, where neither probes nor scrapes come from" -}}
{{- end -}}
{{- end -}}
{{- toYaml $refused -}}
{{- end -}}

{{- /* Two workers of one name must not overlap where the new one takes up the Jobs of the old. */ -}}
{{- define "oz-agent-worker.strategy" -}}
{{- if .Values.worker.strategy -}}
{{- toYaml .Values.worker.strategy -}}
{{- else if eq .Values.worker.backend "kubernetes" -}}
type: Recreate
{{- end -}}
{{- end -}}

{{- /* The worker's variables, each name once: the operator's win, and those of the metrics over the others. */ -}}
{{- define "oz-agent-worker.env" -}}
{{- $worker := .Values.worker -}}
{{- $metrics := .Values.metrics -}}
{{- $secret := .Values.warp.apiKeySecret -}}
{{- $refused := include "oz-agent-worker.refusedEnv" . | fromYaml -}}
{{- $lists := dict "worker.extraEnv" $worker.extraEnv "metrics.extraEnv" (ternary $metrics.extraEnv list $metrics.enabled) -}}
{{- range $list, $entries := $lists -}}
{{- range $entry := $entries -}}
{{- if hasKey $refused $entry.name }}{{ fail (printf "%s: %s %s" $list $entry.name (get $refused $entry.name)) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $first := list -}}
{{- if not $secret.mountAsFile -}}
{{- $key := dict "name" (include "oz-agent-worker.apiKeySecretName" .) "key" $secret.key -}}
{{- $first = append $first (dict "name" "WARP_API_KEY" "valueFrom" (dict "secretKeyRef" $key)) -}}
{{- end -}}
{{- if gt (int64 $worker.replicas) 1 -}}
{{- $first = append $first (dict "name" "POD_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) -}}
{{- end -}}
{{- if ne $worker.backend "kubernetes" -}}
{{- /* Agents write there, and the root file system cannot be written to. */ -}}
{{- $first = append $first (dict "name" "HOME" "value" "/tmp") -}}
{{- end -}}
{{- $then := list (dict "name" "OTEL_METRICS_EXPORTER" "value" (ternary $metrics.exporter "none" $metrics.enabled)) -}}
{{- if include "oz-agent-worker.exportsTo" (list . "prometheus") -}}
{{- $then = append $then (dict "name" "OTEL_EXPORTER_PROMETHEUS_HOST" "value" "[::]") -}}
{{- $then = append $then (dict "name" "OTEL_EXPORTER_PROMETHEUS_PORT" "value" (int64 $metrics.port | toString)) -}}
{{- end -}}
{{- /* The operator's that stand before one of the chart's would lose to it: these are left out here, and the last wins below. */ -}}
{{- $given := dict -}}
{{- range concat $worker.extraEnv (get $lists "metrics.extraEnv") }}{{ $_ := set $given .name true }}{{ end -}}
{{- $ours := list -}}
{{- range $then }}{{ if not (hasKey $given .name) }}{{ $ours = append $ours . }}{{ end }}{{ end -}}
{{- include "oz-agent-worker.once" (concat $first $worker.extraEnv $ours (get $lists "metrics.extraEnv")) -}}
{{- end -}}

{{- /* More flags. Of two the worker takes the last: what would take it from the probes, its name or the time to stop from it is
refused. */ -}}
{{- define "oz-agent-worker.extraArgs" -}}
{{- $refused := dict
  "--drain-timeout" "the Pod's grace period follows worker.drainTimeoutSeconds; set that"
  "--cancel-grace-period" "the Pod's grace period follows worker.cancelGracePeriodSeconds; set that" -}}
{{- if not (include "oz-agent-worker.exportsTo" (list . "prometheus")) -}}
{{- $_ := set $refused "--health-address" "is where the probes find the worker; set metrics.port" -}}
{{- end -}}
{{- if gt (int64 .Values.worker.replicas) 1 -}}
{{- $_ := set $refused "--worker-id" "each of several workers is named after its Pod; set worker.workerId" -}}
{{- end -}}
{{- range .Values.worker.extraArgs -}}
{{- $flag := toString . | splitList "=" | first -}}
{{- if hasKey $refused $flag }}{{ fail (printf "worker.extraArgs: %s: %s" $flag (get $refused $flag)) }}{{ end }}
- {{ . | quote }}
{{- end -}}
{{- end -}}

{{- /* Where workspaces are. Nothing else may be mounted there, and nothing that the worker reads may be hidden below it. */ -}}
{{- define "oz-agent-worker.workspaceRoot" -}}
{{- $root := clean .Values.directBackend.workspaceRoot -}}
{{- if or (has $root (list "/" "/etc")) (regexMatch "^/etc/(oz-agent-worker|oz-agent-worker-api-key)(/|$)" $root) -}}
{{- fail (printf "directBackend.workspaceRoot: %s holds what the worker reads; choose another folder" $root) -}}
{{- end -}}
{{- $root -}}
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

{{- /* Seconds that the Pod gets after SIGTERM: as many as the worker may take. Beyond the drain and the grace period these are 10 s to
tear down, 10 s to report, 2 s to close, 5 s for the last metrics and 1 s for the log (docs/protocol.md, "Shutdown"), and 5 s in which
the kernel ends what was killed. */ -}}
{{- define "oz-agent-worker.terminationGracePeriodSeconds" -}}
{{- $own := int64 .Values.worker.terminationGracePeriodSeconds -}}
{{- $drain := int64 .Values.worker.drainTimeoutSeconds -}}
{{- $cancel := ternary 10 (int64 .Values.worker.cancelGracePeriodSeconds) (kindIs "invalid" .Values.worker.cancelGracePeriodSeconds) -}}
{{- max $own (add $drain $cancel 33) -}}
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
{{- with toString $values.imagePullGrace }}{{ $_ := set $backend "image_pull_grace" . }}{{ end -}}
{{- with toString $values.podStartTimeout }}{{ $_ := set $backend "pod_start_timeout" . }}{{ end -}}
{{- if $values.protectFromEviction }}{{ $_ := set $backend "protect_from_eviction" true }}{{ end -}}
{{- with $values.allowedImages }}{{ $_ := set $backend "allowed_images" . }}{{ end -}}
{{- with $values.kubeconfig }}{{ $_ := set $backend "kubeconfig" . }}{{ end -}}
{{- with $values.context }}{{ $_ := set $backend "context" . }}{{ end -}}
{{- with $values.podTemplate }}{{ $_ := set $backend "pod_template" . }}{{ end -}}
{{- with $values.preflightResources }}{{ $_ := set $backend "preflight_resources" . }}{{ end -}}
{{- include "oz-agent-worker.commands" (list $backend $values) -}}
{{- else if eq $worker.backend "direct" -}}
{{- $values := .Values.directBackend -}}
{{- $_ := set $backend "workspace_root" (include "oz-agent-worker.workspaceRoot" .) -}}
{{- with $values.ozPath }}{{ $_ := set $backend "oz_path" . }}{{ end -}}
{{- with $values.environment }}{{ $_ := set $backend "environment" (include "oz-agent-worker.once" . | fromYamlArray) }}{{ end -}}
{{- include "oz-agent-worker.commands" (list $backend $values) -}}
{{- else if eq $worker.backend "command" -}}
{{- $values := .Values.commandBackend -}}
{{- $dispatch := required "commandBackend.dispatchCommand is required with the backend command" $values.dispatchCommand -}}
{{- $_ := set $backend "dispatch_command" $dispatch -}}
{{- with $values.cancelCommand }}{{ $_ := set $backend "cancel_command" . }}{{ end -}}
{{- with $values.dispatchTimeout }}{{ $_ := set $backend "dispatch_timeout" . }}{{ end -}}
{{- with $values.environment }}{{ $_ := set $backend "environment" (include "oz-agent-worker.once" . | fromYamlArray) }}{{ end -}}
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
