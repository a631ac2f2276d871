{{- /* _worker.tpl - a worker's pod, the same under a StatefulSet, a LeaderWorkerSet and a Deployment. */ -}}

{{- /* Ranks inside one pod: all of a group, or one where a group spans nodes. */ -}}
{{- define "diptych.ranks" -}}
{{- $root := index . 0 -}}
{{- if and (eq (index . 1) "ar") (not $root.Values.ar.multiNode.enabled) -}}
{{- int64 $root.Values.ar.tensorParallel -}}
{{- else -}}1{{- end -}}
{{- end -}}

{{- define "diptych.workerArgs" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $values := index $root.Values $pool -}}
{{- $ranks := include "diptych.ranks" . | int -}}
- worker
- --role={{ $pool }}
{{- if gt $ranks 1 }}
- --ranks={{ $ranks }}
{{- end }}
{{- if and (eq $pool "ar") $root.Values.ar.multiNode.enabled }}
- --ar-rank
- --group-address=$(POD_IP)
- --host-id=$(GROUP)
{{- end }}
- --backend={{ $root.Values.backend }}
- --precision={{ $root.Values.precision }}
{{- if eq $root.Values.backend "cuda" }}
- --device={{ int64 $root.Values.gpu.device }}
{{- with $root.Values.gpu.plugin }}
- --cuda-plugin={{ . }}
{{- end }}
- --cudnn={{ $root.Values.gpu.cudnn }}
{{- end }}
{{- with int64 $values.threads }}
- --threads={{ . }}
{{- end }}
- --{{ $pool }}-slots={{ int64 $values.slots }}
- --listen={{ $root.Values.network.listenAddress }}:{{ int64 $root.Values.network.ports.worker }}
- --advertise={{ include "diptych.podAddress" $root }}:{{ int64 $root.Values.network.ports.worker }}
{{ include "diptych.commonArgs" $root | trim }}
{{- if include "diptych.tls" $root }}
- --tls-name={{ include "diptych.tlsName" $root }}
{{- else }}
- --insecure
{{- end }}
{{- if not (include "diptych.etcd" $root) }}
- --server={{ include "diptych.server" $root }}
{{- end }}
{{- with $root.Values.auth.workerToken }}
{{- if .existingSecret }}
- --token-file=/etc/diptych/token/{{ .key }}
{{- end }}
{{- end }}
- --keep-time={{ int64 $root.Values.limits.keepSeconds }}
- --stuck-time={{ int64 $root.Values.liveness.stuckSeconds }}
- --grace={{ int64 $values.drainSeconds }}
{{- with $values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* (list . "ar"): the pod's template. */ -}}
{{- define "diptych.workerPod" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $values := index $root.Values $pool -}}
{{- $ranks := include "diptych.ranks" . | int -}}
{{- $isMultiNode := and (eq $pool "ar") $root.Values.ar.multiNode.enabled -}}
metadata: {{- include "diptych.podMetadata" . | nindent 2 }}
spec:
  {{- include "diptych.placement" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "diptych.workerGrace" $values }}
  {{- with include "diptych.modelSteps" (list $root (include "diptych.workerImage" $root)) | trim }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "diptych.workerImage" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: {{- include "diptych.workerArgs" . | nindent 8 }}
      env: {{- include "diptych.env" . | nindent 8 }}
        {{- if $isMultiNode }}
        - name: GROUP
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['leaderworkerset.sigs.k8s.io/group-key']"}}
        {{- end }}
      ports:
        {{- range $rank := until $ranks }}
        - {name: {{ ternary "grpc" (printf "grpc-%d" $rank) (eq $rank 0) }}, containerPort: {{ add (int64 $root.Values.network.ports.worker) $rank }}}
        {{- end }}
        - {name: http, containerPort: {{ int64 $root.Values.network.ports.http }}}
      {{- include "diptych.probes" $root | nindent 6 }}
      securityContext: {{- include "diptych.containerSecurityContext" $root | nindent 8 }}
      {{- $resources := deepCopy $values.resources }}
      {{- if eq $root.Values.backend "cuda" }}
      {{- range $part := list "limits" "requests" }}
      {{- $gpus := dict $root.Values.gpu.resource (int64 $ranks) }}
      {{- $_ := set $resources $part (merge $gpus (default dict (index $resources $part))) }}
      {{- end }}
      {{- end }}
      resources: {{- toYaml $resources | nindent 8 }}
      volumeMounts: {{- include "diptych.commonMounts" . | trim | nindent 8 }}
        {{- if $root.Values.auth.workerToken.existingSecret }}
        - name: token
          mountPath: /etc/diptych/token
          readOnly: true
        {{- end }}
        {{- if eq $pool "ar" }}
        - name: shm
          mountPath: /dev/shm
        {{- end }}
  volumes: {{- include "diptych.commonVolumes" . | trim | nindent 4 }}
    {{- with $root.Values.auth.workerToken.existingSecret }}
    - name: token
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if eq $pool "ar" }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $values.sharedMemory }}}
    {{- end }}
{{- end -}}
