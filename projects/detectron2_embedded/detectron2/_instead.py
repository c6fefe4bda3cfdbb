"""What to use here in place of names that Detectron2 has and this subset does not."""

_LOAD = "a config is a Python file that `LazyConfig.load` reads, or one of `model_zoo.get_config`."
_DESCRIBE = (
    "a lazy config describes the object itself, as `LazyCall(cls)(...)` with other such calls as arguments, and "
    "`instantiate` builds it."
)
_CLIP = "clip in a hook's `after_backward`: `torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)`."
_AUGMENT = "the mapper's config lists augmentations, as `LazyCall(ResizeShortestEdge)(...)`."
_NO_SETUP = "nothing has to be set up."
_TABLE = "`collect_env_info` is the whole table."

# Name, or dotted path where the name alone says too little: what follows "Here, ".
INSTEAD = {
    **dict.fromkeys(["CfgNode", "get_cfg", "global_cfg", "set_global_cfg"], _LOAD),
    **dict.fromkeys(["downgrade_config", "upgrade_config"], _LOAD),
    **dict.fromkeys([f"detectron2.config.{name}" for name in ("compat", "config", "defaults")], _LOAD),
    "configurable": "a class takes its parts, not a config; " + _DESCRIBE,
    "DefaultTrainer": (
        "`engine.AMPTrainer` or `engine.SimpleTrainer` trains, with hooks (IterationTimer, LRScheduler, "
        "PeriodicCheckpointer, EvalHook, PeriodicWriter) as in Detectron2's tools/lazyconfig_train_net.py."
    ),
    "DefaultPredictor": (
        "a few lines predict: `model = instantiate(cfg.model).to(cfg.train.device).eval()`; "
        "`DetectionCheckpointer(model).load(weights)`; and under `torch.no_grad()` "
        "`model([instantiate(cfg.dataloader.test.mapper)({'file_name': path})])[0]`."
    ),
    "build_model": "`instantiate(cfg.model)` builds a model; " + _DESCRIBE,
    **dict.fromkeys(
        ["build_anchor_generator", "build_backbone", "build_box_head", "build_proposal_generator"], _DESCRIBE
    ),
    **dict.fromkeys(["build_resnet_backbone", "build_roi_heads", "build_rpn_head"], _DESCRIBE),
    **dict.fromkeys(["build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"], _DESCRIBE),
    "build_optimizer": (
        "`LazyCall(torch.optim.SGD)(params=LazyCall(get_default_optimizer_params)(...), lr=...)` describes one; "
        "`instantiate` builds it once `cfg.optimizer.params.model` is set."
    ),
    "build_lr_scheduler": (
        "describe a schedule of fvcore.common.param_scheduler, perhaps in a `solver.WarmupParamScheduler`, and give "
        "it to `engine.hooks.LRScheduler`."
    ),
    **dict.fromkeys(["GradientClipType", "maybe_add_gradient_clipping"], _CLIP),
    "AutogradProfiler": "`engine.hooks.TorchProfiler` profiles.",
    "COCOevalMaxDets": "`COCOEvaluator(max_dets_per_image=...)` sets that limit.",
    "verify_results": "compare what `inference_on_dataset` returns.",
    **dict.fromkeys(["build_augmentation", "build_transform_gen"], _AUGMENT),
    **dict.fromkeys(["setup_custom_environment", "setup_environment"], _NO_SETUP),
    **dict.fromkeys(["collect_torch_env", "get_env_module", "detectron2.utils.collect_env.main"], _TABLE),
}
