import warnings

# Google's libraries announce on import which Python and grpc they will want some year
warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")
